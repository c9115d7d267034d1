"""BlackJAX as its documentation shows it: window adaptation, then a scan of NUTS steps, all under one `jax.jit`.

The log density comes from NumPyro's `initialize_model`, as it does for BlackJAX's users.
"""

from typing import Any

import blackjax
import jax
import numpy as np
from jax import lax
from numpyro.infer.util import initialize_model

from benchmarks.peers.numpyro_models import MODELS
from benchmarks.run_record import Run, Sampler, Settings, as_numpy


def sampler(target: str, arguments: tuple[Any, ...], settings: Settings) -> Sampler:
    """NUTS with a diagonal metric and default settings; chains one after another."""
    keys = jax.random.split(jax.random.key(0), settings.chains)
    initial, potential, constrain, _ = initialize_model(keys, MODELS[target], model_args=arguments)

    def log_density(position: Any) -> Any:
        return -potential(position)

    @jax.jit
    def chain(key: Any, position: Any) -> Any:
        warmup_key, key = jax.random.split(key)
        warmup = blackjax.window_adaptation(blackjax.nuts, log_density)
        (state, parameters), info = warmup.run(warmup_key, position, num_steps=settings.warmup)
        kernel = blackjax.nuts(log_density, **parameters).step

        def step(state: Any, key: Any) -> Any:
            state, info = kernel(key, state)
            return state, (state.position, info.num_integration_steps)

        _, (positions, steps) = lax.scan(step, state, jax.random.split(key, settings.draws))
        return jax.vmap(constrain)(positions), steps, info.info.num_integration_steps.sum()

    def run(seed: int) -> Run:
        keys = jax.random.split(jax.random.key(seed + 1), settings.chains)
        starts = [jax.tree.map(lambda leaf, i=i: leaf[i], initial.z) for i in range(settings.chains)]
        chains = [chain(key, start) for key, start in zip(keys, starts, strict=True)]
        draws, steps, warmup_steps = jax.tree.map(lambda *leaves: np.stack(leaves), *chains)
        return Run(as_numpy(draws), steps, float(warmup_steps.sum()))

    return run
