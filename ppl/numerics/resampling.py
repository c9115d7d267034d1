"""Resampling schemes: which particle each position copies, as a pure function of weights and given noise.

Law: with W the normalised weights and `O_j` the number of copies of particle j among n, `E[O_j] = n W_j` over
uniform noise, for every scheme; systematic resampling gives the floor or the ceiling of `n W_j`, always. So
giving each copy the mean weight leaves the measure that the population stands for unchanged.

Whatever the rounding, an ancestor is the index of a particle whose weight is not zero. Where all weights are zero
position i copies particle `i mod J`: the population is left alone, and its mass stays zero.

The noise is an argument, so that `ppl.numerics.cells` can enumerate every behaviour of these very functions. In
float32 about 5% of the ancestors differ from exact arithmetic at n = 1e6, by at most a few places.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from ppl.numerics.prefix import prefix_count, prefix_max, prefix_sum
from ppl.numerics.weights import has_mass, normalize_log_weights


def multinomial(uniforms: Float[Array, "n"], log_weights: Float[Array, "particles"], n: int) -> Int32[Array, "n"]:
    """Draw every position independently, particle j with probability W_j. The most noise of all schemes.

    Args:
        uniforms: one number in [0, 1) for each position.
        log_weights: unnormalised log weights (nats).
        n: the number of positions to fill.

    Returns:
        The ancestor of each position, not sorted.

    Examples:
        >>> import jax.numpy as jnp
        >>> multinomial(jnp.array([0.9, 0.1]), jnp.log(jnp.array([0.25, 0.75])), 2).tolist()
        [1, 0]
    """
    weights = weights_or_uniform(log_weights)
    ancestors = _inverse_cdf(uniforms, weights)
    return identity_if_zero_mass(ancestors, log_weights, n)


def systematic(uniforms: Float[Array, ""], log_weights: Float[Array, "particles"], n: int) -> Int32[Array, "n"]:
    """Position i copies the particle in whose share of [0, 1) the point `(i + u) / n` falls; one u for all.

    Args:
        uniforms: one number u in [0, 1).
        log_weights: unnormalised log weights (nats).
        n: the number of positions to fill.

    Returns:
        The ancestor of each position, in rising order.

    Examples:
        >>> import jax.numpy as jnp
        >>> systematic(jnp.array(0.5), jnp.log(jnp.array([0.1, 0.9])), 4).tolist()
        [1, 1, 1, 1]
    """
    return _one_per_stratum(uniforms, log_weights, n)


def stratified(uniforms: Float[Array, "n"], log_weights: Float[Array, "particles"], n: int) -> Int32[Array, "n"]:
    """As `systematic`, with an independent u for each position.

    Args:
        uniforms: one number in [0, 1) for each position.
        log_weights: unnormalised log weights (nats).
        n: the number of positions to fill.

    Returns:
        The ancestor of each position, in rising order.

    Examples:
        >>> import jax.numpy as jnp
        >>> stratified(jnp.array([0.9, 0.1]), jnp.log(jnp.array([0.25, 0.75])), 2).tolist()
        [1, 1]
    """
    return _one_per_stratum(uniforms, log_weights, n)


def residual(uniforms: Float[Array, "n"], log_weights: Float[Array, "particles"], n: int) -> Int32[Array, "n"]:
    """Copy each particle `floor(n W_j)` times, and draw the rest from what is left of the weights.

    Args:
        uniforms: one number in [0, 1) for each position; those of the copies made for certain are not used.
        log_weights: unnormalised log weights (nats).
        n: the number of positions to fill.

    Returns:
        The ancestor of each position: the certain copies first, in rising order.

    Examples:
        >>> import jax.numpy as jnp
        >>> residual(jnp.array([0.0, 0.0, 0.0, 0.9]), jnp.log(jnp.array([0.4, 0.6])), 4).tolist()
        [0, 1, 1, 1]
    """
    certain, is_certain, remainder = residual_parts(log_weights, n)
    ancestors = jnp.where(is_certain, certain, _inverse_cdf(uniforms, remainder))
    return identity_if_zero_mass(ancestors, log_weights, n)


class Resampler(NamedTuple):
    """A scheme: its function and the shape of the noise that it reads.

    Attributes:
        ancestors: `(uniforms, log_weights, n) -> ancestors`.
        noise_shape: from n, the shape of `uniforms`.
    """

    ancestors: Callable[[Array, Array, int], Array]
    noise_shape: Callable[[int], tuple[int, ...]]

    def draw(self, key: Array, log_weights: Float[Array, "particles"], n: int) -> Int32[Array, "{n}"]:
        """Resample with fresh noise.

        Args:
            key: a JAX key.
            log_weights: unnormalised log weights (nats).
            n: the number of positions to fill.

        Returns:
            The ancestor of each position.
        """
        uniforms = jax.random.uniform(key, self.noise_shape(n), log_weights.dtype)
        return self.ancestors(uniforms, log_weights, n)


RESAMPLERS: dict[str, Resampler] = {
    "multinomial": Resampler(multinomial, lambda n: (n,)),
    "systematic": Resampler(systematic, lambda n: ()),
    "stratified": Resampler(stratified, lambda n: (n,)),
    "residual": Resampler(residual, lambda n: (n,)),
}


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


def scaled_cumulative(weights: Float[Array, "particles"], n: int) -> Float[Array, "particles"]:
    """The ends of the particles' shares of [0, n), in rising order.

    An end that rounding alone may have moved off an integer is put back on it, so that a population of a few hundred
    equal weights resamples to the identity, whatever u.

    Args:
        weights: non-negative weights, not all zero.
        n: the number of positions.

    Returns:
        Numbers in [0, n], the last of them n.
    """
    return _snap(cumulative(weights) * n)


def residual_parts(
    log_weights: Float[Array, "particles"], n: int
) -> tuple[Int32[Array, "{n}"], Bool[Array, "{n}"], Float[Array, "particles"]]:
    """The certain copies of residual resampling, and the weights that the other positions are drawn from.

    Args:
        log_weights: unnormalised log weights (nats).
        n: the number of positions.

    Returns:
        The ancestor of each position if it is certain; which positions are; and the weights left over
        (all the weights where nothing is left, when no position is drawn).
    """
    weights = weights_or_uniform(log_weights)
    expected = _snap(n * weights)
    copies = jnp.floor(expected).astype(jnp.int32)
    ends = prefix_count(copies)
    certain = _count_ends(ends, n)
    remainder = expected - copies
    left = jnp.where(jnp.any(remainder > 0), remainder, weights)
    is_certain = jnp.arange(n) < ends[-1]
    return jnp.minimum(certain, log_weights.shape[0] - 1), is_certain, left


def _snap(numbers: Array) -> Array:
    """Put on the integer what is within eight ulps of it, a blocked sum's error, and within a thousandth at most."""
    nearest = jnp.round(numbers)
    tolerance = jnp.minimum(8 * jnp.finfo(numbers.dtype).eps * jnp.maximum(nearest, 1.0), 1e-3)
    return jnp.where(jnp.abs(numbers - nearest) <= tolerance, nearest, numbers)


def _one_per_stratum(uniforms: Array, log_weights: Array, n: int) -> Array:
    """Ancestors of the points `i + u_i` in [0, n), from the number of points before each end."""
    ends = scaled_cumulative(weights_or_uniform(log_weights), n)
    whole = jnp.floor(ends)
    stratum = whole.astype(jnp.int32)
    point = uniforms if uniforms.ndim == 0 else uniforms[jnp.minimum(stratum, n - 1)]
    # Of the points, those in strata before `whole` are before the end, and perhaps the one in the same stratum.
    # ceil(end - u) would say the same in exact arithmetic, but in float32 n - u rounds to n - 1 at n = 1e5. An end
    # at n has all n points before it, so that no position is left for whatever comes after the last share.
    before = stratum + (point < ends - whole)
    return identity_if_zero_mass(_count_ends(before, n), log_weights, n)


def _count_ends(ends: Array, n: int) -> Array:
    """For each position, the number of ends at or before it: a histogram and a prefix sum."""
    histogram = jnp.zeros(n, jnp.int32).at[ends].add(1, mode="drop")
    return prefix_count(histogram)


def _inverse_cdf(uniforms: Array, weights: Array) -> Array:
    """For each u in [0, 1), the first particle whose cumulative weight is above u."""
    ends = cumulative(weights)
    return jnp.searchsorted(ends, uniforms, side="right").astype(jnp.int32)
