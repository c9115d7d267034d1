"""Killing: a particle keeps its place with probability `w_i / max w`, or else copies one drawn in proportion to weight.

Law: `E[O_j] = w_j / max w + sum_i (1 - w_i / max w) W_j = J W_j`. The closer the weights are to equal, the fewer
particles move: in the limit of many short steps, none does without need.

Pierre Del Moral, "Feynman-Kac Formulae" (2004), section 2.5.3; Santeri Karppinen, Sumeetpal Singh and Matti Vihola,
"Conditional particle filters with bridge backward sampling", JCGS (2023).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from ppl.numerics.shares import identity_if_zero_mass, inverse_cdf, weights_or_uniform


def killing(uniforms: Float[Array, "n"], log_weights: Float[Array, "particles"], n: int) -> Int32[Array, "n"]:
    """Position i keeps particle i with probability `w_i / max w`, or else copies particle j with probability W_j.

    Of n positions the first ones, as many as a multiple of the number J of particles, begin at particle `i mod J`; the
    rest draw.

    Args:
        uniforms: one number in [0, 1) for each position.
        log_weights: unnormalised log weights (nats).
        n: the number of positions to fill.

    Returns:
        The ancestor of each position; not sorted.

    Examples:
        >>> import jax.numpy as jnp
        >>> killing(jnp.array([0.2, 0.9]), jnp.log(jnp.array([0.25, 0.75])), 2).tolist()
        [0, 1]
    """
    weights = weights_or_uniform(log_weights)
    keep = keeping(weights, n)
    # The noise below `keep` has done its work; what is above it is uniform again.
    again = jnp.maximum(uniforms - keep, 0.0) / jnp.where(keep < 1, 1 - keep, 1.0)
    below_one = jnp.minimum(again, 1 - jnp.finfo(again.dtype).epsneg)
    own = jnp.arange(n, dtype=jnp.int32) % log_weights.shape[0]
    ancestors = jnp.where(uniforms < keep, own, inverse_cdf(below_one, weights))
    return identity_if_zero_mass(ancestors, log_weights, n)


def keeping(weights: Float[Array, "particles"], n: int) -> Float[Array, "{n}"]:
    """The probability that a position keeps its particle.

    Args:
        weights: normalised weights.
        n: the number of positions.

    Returns:
        `w_i / max w`, and zero for the positions beyond the last whole population.
    """
    count = weights.shape[0]
    index = jnp.arange(n)
    return jnp.where(index < count * (n // count), (weights / jnp.max(weights))[index % count], 0.0)
