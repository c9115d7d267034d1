"""The error of an evidence estimate from one run: how much of the weight descends from each of the first particles.

    V = 1 - (N / (N - 1))^(r + 1) (1 - sum over first ancestors k of (weight that descends from k)^2)

estimates the relative variance of the evidence, N particles, r resamplings. Chan and Lai (2013); Lee and Whiteley,
*Variance estimation in the particle filter* (Biometrika 2018), eq. 8 with a test function of one.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from ppl.numerics.weights import log_sum_exp, normalize_log_weights

FEWEST = 10
"""With fewer first ancestors left than this, the genealogy cannot tell the error."""


def log_evidence_error(
    log_weights: Float[Array, "particles"], eve: Int32[Array, "particles"], resampled: Bool[Array, "advances"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The log evidence of a population, and its standard error (nats).

    Args:
        log_weights: Unnormalised log weights (nats).
        eve: The first ancestor of each particle.
        resampled: Whether there was a resampling before each advance.

    Returns:
        The log evidence; its standard error, `inf` where fewer than ten first ancestors are left.
    """
    normalized = normalize_log_weights(log_weights)
    weights = jnp.exp(normalized.log_weights)
    n = weights.shape[0]
    families = jnp.zeros(n, weights.dtype).at[eve].add(weights)
    shared = jnp.sum(families**2)
    growth = (jnp.sum(resampled) + 1) * -jnp.log1p(-1.0 / n) if n > 1 else jnp.inf
    variance = -jnp.expm1(growth + jnp.log1p(-jnp.minimum(shared, 1.0)))
    few = jnp.sum(families > 0) < FEWEST
    error = jnp.sqrt(jnp.maximum(variance, 0.0))
    return log_sum_exp(log_weights), jnp.where(few, jnp.inf, error)
