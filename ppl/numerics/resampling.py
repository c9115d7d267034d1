"""Resampling schemes: which particle each position copies, as a pure function of weights and given noise.

Law: with W the normalised weights and `O_j` the number of copies of particle j among n, `E[O_j] = n W_j` over
uniform noise, for every scheme of `RESAMPLERS`; systematic and SSP resampling give the floor or the ceiling of `n W_j`,
always. So giving each copy the mean weight leaves the measure that the population stands for unchanged.

Whatever the rounding, an ancestor is the index of a particle whose weight is not zero. Where all weights are zero
position i copies particle `i mod J`: the population is left alone, and its mass stays zero. `"metropolis"`, which needs
no sums of weights, keeps none of this exactly: it is biased, and reachable by name only.

The noise is an argument, so that `ppl.numerics.cells` can enumerate every behaviour of these very functions. In
float32 the ancestors of systematic and stratified resampling are those of float64 arithmetic at all but 0.3% of the
positions at n = 1e5, and 0.01% at n = 1e6, where sums are kept in two parts (`ppl.numerics.shares`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from ppl.errors import MeasureError
from ppl.numerics.killing import killing
from ppl.numerics.metropolis_resampling import DEFAULT_STEPS, metropolis
from ppl.numerics.prefix import prefix_count
from ppl.numerics.shares import (
    count_ends,
    identity_if_zero_mass,
    inverse_cdf,
    points_before,
    share_ends,
    snap,
    weights_or_uniform,
)
from ppl.numerics.ssp import ssp


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
    ancestors = inverse_cdf(uniforms, weights)
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
    ancestors = jnp.where(is_certain, certain, inverse_cdf(uniforms, remainder))
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
    "ssp": Resampler(ssp, lambda n: (n,)),
    "killing": Resampler(killing, lambda n: (n,)),
}
"""The schemes that keep the law; the names of `ppl.resample`, with those of `BIASED`."""

BIASED: dict[str, Resampler] = {"metropolis": Resampler(metropolis, lambda n: (DEFAULT_STEPS, 2, n))}
"""Schemes that keep the law in a limit only."""


def resampler(scheme: str) -> Resampler:
    """Look a scheme up by its name.

    Args:
        scheme: a name of `RESAMPLERS`; or `"metropolis"`, after a blank with its number of steps: `"metropolis 64"`.

    Returns:
        The scheme.

    Raises:
        MeasureError: where there is no scheme of this name.

    Examples:
        >>> resampler("metropolis 64").noise_shape(10)
        (64, 2, 10)
    """
    name, _, steps = scheme.partition(" ")
    if name == "metropolis" and steps.isdecimal():
        return Resampler(metropolis, lambda n: (int(steps), 2, n))
    known = RESAMPLERS | BIASED
    if scheme not in known:
        raise MeasureError(
            f"There is no resampling scheme {scheme!r}.\nExpected: one of {', '.join(known)}; or, for another number "
            f"of steps than {DEFAULT_STEPS}, as in 'metropolis 64'."
        )
    return known[scheme]


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
    expected = snap(n * weights)
    copies = jnp.floor(expected).astype(jnp.int32)
    ends = prefix_count(copies)
    certain = count_ends(ends, n)
    remainder = expected - copies
    left = jnp.where(jnp.any(remainder > 0), remainder, weights)
    is_certain = jnp.arange(n) < ends[-1]
    return jnp.minimum(certain, log_weights.shape[0] - 1), is_certain, left


def _one_per_stratum(uniforms: Array, log_weights: Array, n: int) -> Array:
    """Ancestors of the points `i + u_i` in [0, n), from the number of points before each end."""
    ends = share_ends(weights_or_uniform(log_weights), n)
    return identity_if_zero_mass(count_ends(points_before(uniforms, ends, n), n), log_weights, n)
