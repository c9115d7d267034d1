"""The bootstrap filter of `cuthbert` on the linear-Gaussian model, compiled as a whole; it returns the evidence."""

import jax
import jax.numpy as jnp
import numpy as np
from cuthbert import filter as filtered
from cuthbert.smc.particle_filter import build_filter
from cuthbertlib.resampling import adaptive, systematic

from benchmarks.filter_protocol import THRESHOLD, A, Filter, Q, R, serve


def first(key):
    return jax.random.normal(key)


def move(key, x, y):
    return A * x + Q**0.5 * jax.random.normal(key)


def log_potential(before, x, y):
    return jax.scipy.stats.norm.logpdf(y, x, R**0.5)


def make(count: int, observations: np.ndarray) -> Filter:
    """A compiled filter."""
    again = adaptive.ess_decorator(systematic.resampling, THRESHOLD)
    algorithm = build_filter(first, move, log_potential, count, again)
    data = jnp.asarray(observations)

    @jax.jit
    def log_evidence(key):
        start, rest = jax.random.split(key)
        states = filtered(algorithm, data, algorithm.init_prepare(key=start), key=rest)
        return states.log_normalizing_constant[-1]

    return lambda seed: float(log_evidence(jax.random.key(seed)))


if __name__ == "__main__":
    serve(make)
