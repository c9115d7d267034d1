"""NumPyro as its users run it: `MCMC(NUTS(model))`, chains one after another, with the progress bar."""

from typing import Any

import jax
import numpy as np
from numpyro.infer import MCMC, NUTS

from benchmarks.peers.numpyro_models import MODELS
from benchmarks.run_record import Run, Sampler, Settings, as_numpy


def sampler(target: str, arguments: tuple[Any, ...], settings: Settings) -> Sampler:
    """NUTS with its default settings; a second call runs the same `MCMC` object again."""
    mcmc = MCMC(
        NUTS(MODELS[target]),
        num_warmup=settings.warmup,
        num_samples=settings.draws,
        num_chains=settings.chains,
        chain_method="sequential",
        progress_bar=True,
    )

    def run(seed: int) -> Run:
        mcmc.run(jax.random.key(seed), *arguments, extra_fields=("num_steps",))
        steps = mcmc.get_extra_fields(group_by_chain=True)["num_steps"]
        return Run(as_numpy(mcmc.get_samples(group_by_chain=True)), np.asarray(steps))

    return run
