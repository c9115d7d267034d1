"""Conditional resampling: ancestors of n positions, given that position 0 holds a copy of particle 0.

Law: let A be the ancestors of the unconditional scheme, and shift the positions cyclically by a uniform amount, so that
each position's ancestor has the law W: `A'_i = A_{(i + K) mod n}`. The functions here draw from `P(A' | A'_0 = 0)`.
It is what conditional SMC asks of a scheme: that retaining a path be the same as having drawn it. Setting `A_0 = 0` in
unconditional ancestors does not keep this law but for multinomial resampling.

A retained particle of weight zero, on which nothing can be conditioned, is retained all the same.

Nicolas Chopin and Sumeetpal Singh, "On particle Gibbs sampling", Bernoulli 21 (2015), section 3.2 (systematic); Santeri
Karppinen, Sumeetpal Singh and Matti Vihola, "Conditional particle filters with bridge backward sampling", JCGS (2023)
(killing).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from ppl.errors import MeasureError
from ppl.numerics.killing import keeping, killing
from ppl.numerics.resampling import Resampler, multinomial
from ppl.numerics.shares import (
    count_ends,
    identity_if_zero_mass,
    inverse_cdf,
    points_before,
    share_ends,
    weights_or_uniform,
)


def conditional_multinomial(
    uniforms: Float[Array, "n"], log_weights: Float[Array, "particles"], n: int
) -> Int32[Array, "n"]:
    """Position 0 copies particle 0; the others are drawn independently, particle j with probability W_j.

    Args:
        uniforms: one number in [0, 1) for each position; the first is not used.
        log_weights: unnormalised log weights (nats).
        n: the number of positions to fill.

    Returns:
        The ancestor of each position.

    Examples:
        >>> import jax.numpy as jnp
        >>> conditional_multinomial(jnp.array([0.9, 0.9]), jnp.log(jnp.array([0.25, 0.75])), 2).tolist()
        [0, 1]
    """
    return multinomial(uniforms, log_weights, n).at[0].set(0)


def conditional_systematic(
    uniforms: Float[Array, "2"], log_weights: Float[Array, "particles"], n: int
) -> Int32[Array, "n"]:
    """One of the points `i + u` in [0, n) falls uniformly into the share of particle 0; positions are counted from it.

    Args:
        uniforms: two numbers in [0, 1): the stratum of that point, and its place there.
        log_weights: unnormalised log weights (nats).
        n: the number of positions to fill.

    Returns:
        The ancestor of each position: rising order, from somewhere among the copies of particle 0, and round.

    Examples:
        >>> import jax.numpy as jnp
        >>> conditional_systematic(jnp.array([0.6, 0.1]), jnp.log(jnp.array([0.5, 0.25, 0.25])), 4).tolist()
        [0, 1, 2, 0]
    """
    ends = share_ends(weights_or_uniform(log_weights), n)
    whole, fraction = ends.whole[0], ends.fraction[0]
    last = jnp.maximum(whole - (fraction == 0), 0)
    start = jnp.minimum(jnp.floor(uniforms[0] * (whole + fraction)).astype(jnp.int32), last)
    point = uniforms[1] * jnp.where(start < whole, 1.0, fraction)
    ancestors = count_ends(points_before(point, ends, n), n)
    return _shifted(ancestors, start, log_weights, n)


def conditional_killing(
    uniforms: Float[Array, "uniforms"], log_weights: Float[Array, "particles"], n: int
) -> Int32[Array, "{n}"]:
    """A position, drawn in proportion to its probability of copying particle 0, does so; the others count from it.

    Args:
        uniforms: n + 1 numbers in [0, 1): one for each position before the shift, and the position.
        log_weights: unnormalised log weights (nats).
        n: the number of positions to fill.

    Returns:
        The ancestor of each position.

    Examples:
        >>> import jax.numpy as jnp
        >>> conditional_killing(jnp.array([0.2, 0.9, 0.6]), jnp.log(jnp.array([0.25, 0.75])), 2).tolist()
        [0, 1]
    """
    start = inverse_cdf(uniforms[n:], first_copied(log_weights, n))[0]
    ancestors = killing(uniforms[:n], log_weights, n).at[start].set(0)
    return _shifted(ancestors, start, log_weights, n)


def first_copied(log_weights: Float[Array, "particles"], n: int) -> Float[Array, "{n}"]:
    """In proportion to the probability that a position copies particle 0 under `killing`.

    Args:
        log_weights: unnormalised log weights (nats).
        n: the number of positions.

    Returns:
        Weights of the positions; of position 0 alone where particle 0 has no weight.
    """
    weights = weights_or_uniform(log_weights)
    keep, index = keeping(weights, n), jnp.arange(n)
    copied = jnp.where(index % weights.shape[0] == 0, keep, 0.0) + (1 - keep) * weights[0]
    return jnp.where(weights[0] > 0, copied, (index == 0).astype(weights.dtype))


CONDITIONAL: dict[str, Resampler] = {
    "multinomial": Resampler(conditional_multinomial, lambda n: (n,)),
    "systematic": Resampler(conditional_systematic, lambda n: (2,)),
    "killing": Resampler(conditional_killing, lambda n: (n + 1,)),
}
"""The schemes that have a conditional version."""


def conditional_resampler(scheme: str) -> Resampler:
    """Look a conditional scheme up by its name.

    Args:
        scheme: a name of `CONDITIONAL`.

    Returns:
        The scheme.

    Raises:
        MeasureError: where there is no conditional scheme of this name.
    """
    if scheme not in CONDITIONAL:
        raise MeasureError(
            f"There is no conditional version of a resampling scheme {scheme!r}.\n"
            f"Expected: one of {', '.join(CONDITIONAL)}."
        )
    return CONDITIONAL[scheme]


def _shifted(ancestors: Array, start: Array, log_weights: Array, n: int) -> Array:
    """Positions counted from `start` on, and round; an all-zero population is left alone."""
    shifted = ancestors[(jnp.arange(n) + start) % n].at[0].set(0)
    return identity_if_zero_mass(shifted, log_weights, n)
