"""NumPyro inside one `jax.jit`: a whole chain is one compiled function, called once a chain."""

from typing import Any

import jax
import numpy as np
from numpyro.infer import MCMC, NUTS

from benchmarks.peers.numpyro_models import MODELS
from benchmarks.run_record import Run, Sampler, Settings, as_numpy


def sampler(target: str, arguments: tuple[Any, ...], settings: Settings) -> Sampler:
    """NUTS with its default settings, compiled once."""
    static = {i: x for i, x in enumerate(arguments) if not isinstance(x, np.ndarray)}

    @jax.jit
    def chain(key: Any, *arrays: Any) -> Any:
        rest = iter(arrays)
        full = [static[i] if i in static else next(rest) for i in range(len(arguments))]
        mcmc = MCMC(NUTS(MODELS[target]), num_warmup=settings.warmup, num_samples=settings.draws, progress_bar=False)
        mcmc.run(key, *full, extra_fields=("num_steps",))
        return mcmc.get_samples(), mcmc.get_extra_fields()["num_steps"]

    arrays = [x for x in arguments if isinstance(x, np.ndarray)]

    def run(seed: int) -> Run:
        chains = [chain(key, *arrays) for key in jax.random.split(jax.random.key(seed), settings.chains)]
        draws, steps = jax.tree.map(lambda *leaves: np.stack(leaves), *chains)
        return Run(as_numpy(draws), steps)

    return run
