"""SSP resampling: each particle is copied the floor or the ceiling of `n W_j` times, rounded with negative association.

The Srinivasan sampling process lets the fractional parts of `n W_j` fight in order: of two, one becomes 0 or 1 and the
other carries the rest on to the next. That is a loop over the particles. By Chauvet (2012) the set of those that become
1 has the same law as Deville's systematic sampling: cut [0, m) into shares of the fractional parts, m their sum, and
put one point in each [i, i + 1), independently but for the particles whose share crosses a border: one that has
been drawn below the border is not drawn above it, and more often if it was not. Whether the one at the border was drawn
is a chain over the strata, of which each link is a constant or the identity: a running maximum finds the last constant.

Mathieu Gerber, Nicolas Chopin and Nick Whiteley, "Negative association, ordering and convergence of resampling
methods", Annals of Statistics 47 (2019), algorithm 2. Guillaume Chauvet, "On a characterization of ordered pivotal
sampling", Bernoulli 18 (2012), theorem 1.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from ppl.numerics.prefix import prefix_count, prefix_max
from ppl.numerics.shares import (
    Ends,
    count_ends,
    identity_if_zero_mass,
    points_before,
    share_ends,
    snap,
    weights_or_uniform,
)


class Rounding(NamedTuple):
    """What is left to draw when each particle has been copied `floor(n W_j)` times.

    Attributes:
        copies: the certain copies of each particle.
        left: m, how many positions are left.
        ends: the ends of the shares of [0, m) that are the fractional parts.
        entering: for each stratum, the part at its beginning of the particle that crosses into it; 0 if none does.
        leaving: for each stratum, where the particle begins that crosses its end; 1 if none does.
        retry: for each stratum, the probability that the particle that crosses into it is drawn there, if it has
            not been drawn before.
    """

    copies: Int32[Array, "particles"]
    left: Int32[Array, ""]
    ends: Ends
    entering: Float[Array, "n"]
    leaving: Float[Array, "n"]
    retry: Float[Array, "n"]


def ssp(uniforms: Float[Array, "n"], log_weights: Float[Array, "particles"], n: int) -> Int32[Array, "n"]:
    """Copy each particle `floor(n W_j)` or `ceil(n W_j)` times, by the Srinivasan sampling process.

    Args:
        uniforms: one number in [0, 1) for each position; those of the copies made for certain are not used.
        log_weights: unnormalised log weights (nats).
        n: the number of positions to fill.

    Returns:
        The ancestor of each position, in rising order.

    Examples:
        >>> import jax.numpy as jnp
        >>> ssp(jnp.array([0.3, 0.0, 0.0, 0.0]), jnp.log(jnp.array([0.4, 0.6])), 4).tolist()
        [0, 0, 1, 1]
    """
    parts = rounding(log_weights, n)
    before = points_before(_dependent_points(uniforms, parts), parts.ends, n)
    drawn = jnp.where(parts.left > 0, before, 0)
    return identity_if_zero_mass(count_ends(prefix_count(parts.copies) + drawn, n), log_weights, n)


def rounding(log_weights: Float[Array, "particles"], n: int) -> Rounding:
    """Cut what is left of `n W_j` into strata.

    Args:
        log_weights: unnormalised log weights (nats).
        n: the number of positions.

    Returns:
        What `ssp` and its enumeration need. Strata from number `left` on are empty.
    """
    weights = weights_or_uniform(log_weights)
    expected = snap(n * weights)
    copies = jnp.floor(expected).astype(jnp.int32)
    remainder = expected - copies
    left = n - jnp.sum(copies, dtype=jnp.int32)
    ends = share_ends(jnp.where(jnp.any(remainder > 0), remainder, weights), jnp.maximum(left, 1))
    first = jnp.ones(n, weights.dtype).at[ends.whole].min(ends.fraction, mode="drop")
    last = jnp.zeros(n, weights.dtype).at[ends.whole].max(ends.fraction, mode="drop")
    # A share shorter than one ends or begins in every stratum. Nothing crosses into the first one.
    entering = jnp.where(jnp.arange(n) == 0, 0.0, first)
    begins = jnp.roll(last, 1)
    retry = jnp.where(entering > 0, jnp.minimum(entering / jnp.where(begins > 0, begins, 1.0), 1.0), 0.0)
    leaving = jnp.where(jnp.roll(entering, -1) > 0, last, 1.0)
    return Rounding(copies, left, ends, entering, leaving, retry)


def _dependent_points(uniforms: Array, parts: Rounding) -> Array:
    """One point in each stratum, such that no particle has two."""
    beyond = parts.entering + uniforms * (1 - parts.entering)
    again = jnp.maximum(uniforms - parts.retry, 0.0) / jnp.maximum(1 - parts.retry, jnp.finfo(uniforms.dtype).tiny)
    free = jnp.where(uniforms < parts.retry, 0.0, parts.entering + again * (1 - parts.entering))
    # The point if the particle that crosses into the stratum was drawn before is never below the other one. So as a
    # function of that, whether the particle that crosses out is drawn is a constant or the identity.
    if_drawn, if_not = beyond >= parts.leaving, free >= parts.leaving
    step = 2 * jnp.arange(1, len(uniforms) + 1, dtype=jnp.int32) + if_not
    latest = prefix_max(jnp.where(if_drawn == if_not, step, 0))
    drawn_before = jnp.pad(latest[:-1] % 2 == 1, (1, 0))
    return jnp.where(drawn_before, beyond, free)
