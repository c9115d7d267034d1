"""nutpie on NumPyro's log density, through its Python-function interface, in float64: for ESS per gradient.

Every gradient is a call from Rust to Python to a compiled JAX function, so that its times say nothing.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
import nutpie
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import initialize_model
from nutpie import compiled_pyfunc

from benchmarks.peers.numpyro_models import MODELS
from benchmarks.run_record import Run, Sampler, Settings, as_numpy


def sampler(target: str, arguments: tuple[Any, ...], settings: Settings, *, low_rank: bool = False) -> Sampler:
    """Default settings; a diagonal or a low-rank metric."""
    jax.config.update("jax_enable_x64", True)
    initial, potential, constrain, _ = initialize_model(jax.random.key(0), MODELS[target], model_args=arguments)
    start, unravel = ravel_pytree(initial.z)
    both = jax.jit(jax.value_and_grad(lambda vector: -potential(unravel(vector))))

    def log_density(vector: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = both(vector)
        return float(value), np.asarray(gradient, np.float64)

    shape = (start.size,)
    compiled = compiled_pyfunc.from_pyfunc(
        start.size,
        lambda: log_density,
        lambda *_: lambda vector: {"vector": np.asarray(vector, np.float64)},
        [np.dtype(np.float64)],
        [shape],
        ["vector"],
        make_initial_point_fn=lambda seed: np.random.default_rng(seed).uniform(-2.0, 2.0, shape),
    )

    def run(seed: int) -> Run:
        trace = nutpie.sample(
            compiled,
            draws=settings.draws,
            tune=settings.warmup,
            chains=settings.chains,
            cores=1,
            seed=seed,
            progress_bar=False,
            low_rank_modified_mass_matrix=low_rank,
        )
        vectors = trace.posterior["vector"].values
        draws = jax.jit(jax.vmap(jax.vmap(lambda vector: constrain(unravel(vector)))))(vectors)
        warmup_steps = float(trace.warmup_sample_stats["n_steps"].values.sum())
        return Run(as_numpy(draws), trace.sample_stats["n_steps"].values, warmup_steps)

    return run


low_rank = partial(sampler, low_rank=True)
