"""The error of an evidence estimate from one run: how much of the weight descends from which of the first particles.

The estimator and its sources are in `ppl.numerics.kinship`: growth of the families' shares, less what resampling adds
to it by itself. Here its answer becomes a standard error, or `inf` where it cannot tell.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32

from ppl.numerics import kinship
from ppl.numerics.weights import log_sum_exp

FEWEST = 3
"""With fewer families left than this, their shares say nothing."""
LEAST_PARTICLES = 10
ROUNDING = 1e-5


def standard_error(
    growth: Float[Array, ""], fewest: Int[Array, ""], resampled: Bool[Array, "advances"], scheme: str, n: int
) -> Float[Array, ""]:
    """The standard error of a log evidence (nats).

    Args:
        growth: Growth of the families' shares, as a variance (`ppl.numerics.kinship.variance`).
        fewest: The least number of families that it was taken of.
        resampled: Whether there was a resampling before each advance.
        scheme: The resampling scheme.
        n: Number of particles.

    Returns:
        `inf` where there are fewer than ten particles or three families, or where noise has swallowed the growth.
    """
    variance = growth - jnp.sum(resampled) * kinship.drift(scheme, n)
    untold = (fewest < FEWEST) | (variance < -ROUNDING) | jnp.isnan(variance)
    error = jnp.where(untold, jnp.inf, jnp.sqrt(jnp.maximum(variance, 0.0)))
    return error if n >= LEAST_PARTICLES else jnp.full_like(error, jnp.inf)


def log_evidence_error(
    log_weights: Float[Array, "particles"],
    eve: Int32[Array, "particles"],
    resampled: Bool[Array, "advances"],
    scheme: str = "systematic",
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The log evidence of a population whose first ancestors are known, and its standard error (nats).

    Args:
        log_weights: Unnormalised log weights (nats).
        eve: The first ancestor of each particle.
        resampled: Whether there was a resampling before each advance.
        scheme: The resampling scheme.

    Returns:
        The log evidence; its standard error, `inf` where it cannot be told.

    Examples:
        >>> import jax.numpy as jnp
        >>> log_weights = jnp.log(jnp.array([0.5, 1.5] * 25) / 50)
        >>> _, error = log_evidence_error(log_weights, jnp.arange(50, dtype=jnp.int32), jnp.array([False]))
        >>> round(float(error), 2)  # 0.5 / sqrt(50)
        0.07
    """
    n = log_weights.shape[0]
    growth, families = kinship.variance(kinship.start(log_weights), kinship.group_of(eve, n), log_weights)
    return log_sum_exp(log_weights), standard_error(growth, families, resampled, scheme, n)
