"""Weights as shares of [0, 1) or of [0, n): the ends of the shares, and what lies before them.

Law: the ends are in rising order, the last is the total, and a share of weight zero is exactly empty, whatever the
rounding: nothing that falls into a share falls into that of a particle without weight.

At n = 1e6 a float32 near n is a multiple of 1/16, too coarse to say on which side of it a point `i + u` lies: plain
sums misplace 2 to 6 ancestors in 100. So an end is kept as a whole number and a fraction, and above N = 1e5 each is
exact to its own last place: sums within a block of 16 are plain, the offsets of the blocks are added in two parts, with
the carry. Against float64 about 1 ancestor in 10^4 differs at 1e6. Below, and in float64, plain sums are faster.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from ppl.numerics.prefix import (
    BLOCK,
    before_each,
    block_scan,
    block_sums,
    in_blocks,
    prefix_count,
    prefix_max,
    prefix_sum,
)
from ppl.numerics.weights import has_mass, normalize_log_weights

SMALL = 256
"""So few numbers are summed at once."""

PLAIN = 100_000
"""Up to so many particles plain float32 sums do: they misplace 1 ancestor in 300 there, by one place."""


class Ends(NamedTuple):
    """Numbers as `whole + fraction`.

    Attributes:
        whole: the whole numbers below.
        fraction: what is left, in [0, 1).
    """

    whole: Int32[Array, "*particles"]
    fraction: Float[Array, "*particles"]


def weights_or_uniform(log_weights: Float[Array, "particles"]) -> Float[Array, "particles"]:
    """Normalised weights; equal ones where all are zero, so that what follows stays finite.

    Args:
        log_weights: unnormalised log weights (nats).

    Returns:
        Weights that sum to one.
    """
    weights = jnp.exp(normalize_log_weights(log_weights).log_weights)
    return jnp.where(has_mass(log_weights), weights, 1.0 / log_weights.shape[0])


def identity_if_zero_mass(
    ancestors: Int32[Array, "n"], log_weights: Float[Array, "particles"], n: int
) -> Int32[Array, "n"]:
    """Leave an all-zero population alone.

    Args:
        ancestors: what the scheme says.
        log_weights: unnormalised log weights (nats).
        n: the number of positions.

    Returns:
        `ancestors`, or `i mod J` at position i where no weight is above zero.
    """
    identity = jnp.arange(n, dtype=jnp.int32) % log_weights.shape[0]
    return jnp.where(has_mass(log_weights), ancestors, identity)


def cumulative(weights: Float[Array, "particles"]) -> Float[Array, "particles"]:
    """The ends of the particles' shares of [0, 1), in rising order; a share of weight zero is exactly empty.

    Args:
        weights: non-negative weights, not all zero.

    Returns:
        Numbers in [0, 1], the last of them 1.
    """
    # Rounding may move a sum by an ulp over a weight of zero. Taking such sums out before the running maximum puts
    # the ends of an empty share on one number, so that no point can fall in between.
    ends = prefix_max(jnp.where(weights > 0, prefix_sum(weights), 0.0))
    return ends / ends[-1]


def inverse_cdf(uniforms: Float[Array, "n"], weights: Float[Array, "particles"]) -> Int32[Array, "n"]:
    """For each u in [0, 1), the first particle whose cumulative weight is above u.

    Args:
        uniforms: numbers in [0, 1).
        weights: non-negative weights, not all zero.

    Returns:
        Indices of particles with weight.
    """
    return jnp.searchsorted(cumulative(weights), uniforms, side="right").astype(jnp.int32)


def share_ends(weights: Float[Array, "particles"], total: Any) -> Ends:
    """The ends of the particles' shares of [0, total), in rising order.

    An end that rounding alone may have moved off an integer is put back on it, so that equal weights resample to the
    identity, whatever u.

    Args:
        weights: non-negative weights, not all zero.
        total: a positive integer; may be traced.

    Returns:
        Numbers in [0, total], the last of them the total.

    Examples:
        >>> import jax.numpy as jnp
        >>> ends = share_ends(jnp.array([0.75, 0.0, 0.25]), 2)
        >>> ends.whole.tolist(), ends.fraction.tolist()
        ([1, 1, 2], [0.5, 0.5, 0.0])
    """
    if weights.dtype == jnp.float64 or weights.shape[0] <= PLAIN:
        plain = cumulative(weights) * total
        whole = jnp.floor(plain)
        return _snapped(Ends(whole.astype(jnp.int32), plain - whole))
    within = _rising_sums(in_blocks(weights))
    within = within * (total / prefix_sum(within[:, -1])[-1])
    after = _stretched(_two_part_sums(within[:, -1]), total)
    return _snapped(_inside_blocks(within, after, weights.shape[0]))


def count_ends(ends: Int32[Array, "particles"], n: int) -> Int32[Array, "{n}"]:
    """For each position, the number of ends at or before it: a histogram and a prefix sum.

    Args:
        ends: whole numbers from 0 on, in any order.
        n: the number of positions.

    Returns:
        Ancestors, where `ends` are running totals of the numbers of copies.
    """
    histogram = jnp.zeros(n, jnp.int32).at[ends].add(1, mode="drop")
    return prefix_count(histogram)


def points_before(points: Float[Array, "*n"], ends: Ends, n: int) -> Int32[Array, "particles"]:
    """How many of the points `i + points[i]`, one in each [i, i + 1), lie before each end.

    Args:
        points: numbers in [0, 1]; a single one counts for all i.
        ends: see `share_ends`.
        n: the number of points.

    Returns:
        Running totals of the numbers of points in the shares.
    """
    # Of the points, those in strata before `whole` are before the end, and perhaps the one in the same stratum.
    # ceil(end - u) would say the same in exact arithmetic, but in float32 n - u rounds to n - 1 at n = 1e5. An end
    # at n has all n points before it, so that no position is left for whatever comes after the last share.
    point = points if points.ndim == 0 else points[jnp.minimum(ends.whole, n - 1)]
    return ends.whole + (point < ends.fraction)


def snap(numbers: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Put on the integer what is within eight ulps of it, a blocked sum's error, and within a thousandth at most."""
    nearest = jnp.round(numbers)
    tolerance = jnp.minimum(8 * jnp.finfo(numbers.dtype).eps * jnp.maximum(nearest, 1.0), 1e-3)
    return jnp.where(jnp.abs(numbers - nearest) <= tolerance, nearest, numbers)


def _snapped(ends: Ends) -> Ends:
    """As `snap`, of numbers in two parts."""
    up = (ends.fraction >= 0.5).astype(ends.fraction.dtype)
    nearest = ends.whole + up
    tolerance = jnp.minimum(8 * jnp.finfo(up.dtype).eps * jnp.maximum(nearest, 1.0), 1e-3)
    near = jnp.abs(ends.fraction - up) <= tolerance
    return _where(near, Ends(nearest.astype(jnp.int32), jnp.zeros_like(up)), ends)


def _two_part_sums(values: Array) -> Ends:
    """Prefix sums in two parts, in rising order: no sum that is rounded is much larger than one value."""
    whole = jnp.floor(values)
    rest = values - whole
    if len(values) <= SMALL:
        sums = _carried(jnp.zeros(len(values), jnp.int32), _rising_sums(rest[None])[0])
    else:
        within = _rising_sums(in_blocks(rest))
        sums = _inside_blocks(within, _two_part_sums(within[:, -1]), len(values))
    return Ends(sums.whole + jnp.cumsum(whole.astype(jnp.int32)), sums.fraction)


def _rising_sums(rows: Array) -> Array:
    """Prefix sums in rows, with no step down and none where a value is zero, whatever the order of summation."""
    short = rows.shape[1] <= BLOCK
    sums = jnp.where(rows > 0, block_sums(rows) if short else jnp.cumsum(rows, axis=1), 0.0)
    return block_scan(jnp.maximum, sums) if short else lax.cummax(sums, axis=1)


def _inside_blocks(within: Array, after: Ends, count: int) -> Ends:
    """The sums within blocks, on top of what is before the block, and no further than what is after it."""
    ends = _carried(before_each(after.whole)[:, None], before_each(after.fraction)[:, None] + within)
    # Where a block has no more weight the next one begins, to the last bit.
    after = Ends(after.whole[:, None], after.fraction[:, None])
    ends = _where((within == within[:, -1:]) | _is_later(ends, after), after, ends)
    return Ends(ends.whole.reshape(-1)[:count], ends.fraction.reshape(-1)[:count])


def _stretched(sums: Ends, total: Any) -> Ends:
    """Sums that rounding has left about at `total`, all moved by one factor, so that they end there exactly."""
    # The weights were scaled by a rounded number, by whose error all sums are off. The correction depends on the whole
    # part alone, and grows from one to the next by less than the margin taken off the fraction: the order is kept.
    drift = (sums.whole[-1] - total) + sums.fraction[-1]
    margin = 16 * jnp.finfo(sums.fraction.dtype).eps
    moved = _carried(sums.whole, jnp.minimum(sums.fraction, 1 - margin) - drift / total * sums.whole)
    end = Ends(jnp.full_like(sums.whole, total), jnp.zeros_like(sums.fraction))
    last = Ends(moved.whole[-1], moved.fraction[-1])
    return _where(_is_later(last, moved) & (moved.whole < total), moved, end)


def _carried(whole: Array, fraction: Array) -> Ends:
    """`whole + fraction` with the whole part of the fraction carried over."""
    over = jnp.floor(fraction)
    return Ends(whole + over.astype(jnp.int32), fraction - over)


def _is_later(left: Ends, right: Ends) -> Array:
    """Whether left > right."""
    return (left.whole > right.whole) | ((left.whole == right.whole) & (left.fraction > right.fraction))


def _where(condition: Array, then: Ends, otherwise: Ends) -> Ends:
    """Elementwise choice."""
    return Ends(*(jnp.where(condition, a, b) for a, b in zip(then, otherwise, strict=True)))
