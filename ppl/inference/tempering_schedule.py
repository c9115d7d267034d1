r"""The next inverse temperature: the largest step after which the effective sample size is still large enough.

    ESS(delta) = (sum w_i e^{delta r_i})^2 / sum (w_i e^{delta r_i})^2 >= least * ESS(0+),    r = log p - log q

ESS(0+) counts the particles that any step leaves alive: those with r = -inf are lost whatever the step, and a target
that counted them could never be met. With equal weights, ESS falls as delta grows for every r, symmetric or not:
d log ESS / d delta = 2 (E_delta[r] - E_2delta[r]) <= 0. The bisection runs over log delta, since a useful first step
may be 1e-9; it keeps the end that meets the target. It always returns a step above zero.

Reference: Jasra, Stephens, Doucet, Tsagaris, "Inference for Levy-driven stochastic volatility models via adaptive
sequential Monte Carlo", Scandinavian Journal of Statistics 38 (2011); Beskos, Jasra, Kantas, Thiery, "On
the convergence of adaptive sequential Monte Carlo methods", Annals of Applied Probability 26 (2016).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ppl.numerics.weights import effective_sample_size, nan_to_zero_weight

HALVINGS = 40


class Step(NamedTuple):
    """A step of the inverse temperature.

    Attributes:
        beta: Where it ends; above where it began.
        forced: Whether even the smallest step that the arithmetic can make lost too many particles.
    """

    beta: Float[Array, ""]
    forced: Bool[Array, ""]


def weight_increment(log_ratios: Float[Array, "*shape"], delta: Any) -> Float[Array, "*shape"]:
    """Delta times log p - log q; NaN counts as weight zero."""
    return nan_to_zero_weight(jnp.where(delta == 0, 0.0, delta * jnp.where(delta == 0, 0.0, log_ratios)))


def next_inverse_temperature(
    log_weights: Float[Array, "particles"],
    log_ratios: Float[Array, "particles"],
    beta: Float[Array, ""],
    least: float,
) -> Step:
    """The largest step that keeps the share `least` of the effective sample size.

    Args:
        log_weights: Unnormalised log weights now (nats).
        log_ratios: log p - log q of each particle (nats).
        beta: The inverse temperature now, below 1.
        least: Which share of the effective sample size is to be left.

    Examples:
        >>> import jax.numpy as jnp
        >>> step = next_inverse_temperature(jnp.zeros(4), jnp.array([0.0, 0.0, 0.0, 10.0]), jnp.array(0.0), 0.5)
        >>> round(float(step.beta), 3), bool(step.forced)
        (0.187, False)
    """
    alive = jnp.where(nan_to_zero_weight(log_ratios) > -jnp.inf, log_weights, -jnp.inf)

    def effective(delta: Any) -> Any:
        return effective_sample_size(log_weights + weight_increment(log_ratios, delta))

    return largest_step(effective, least * effective_sample_size(alive), beta)


def largest_step(
    effective: Callable[[Any], Any], wanted: Float[Array, ""], beta: Float[Array, ""], upto: float = 1.0
) -> Step:
    """The largest step delta, at most `upto - beta`, with `effective(delta) >= wanted`.

    Args:
        effective: The effective sample size after a step.
        wanted: How much is to be left.
        beta: The inverse temperature now.
        upto: The last inverse temperature.
    """
    # 1 - 1e-4: what is lost by rounding does not count, so that equal weights may make the whole step.
    wanted = (1 - 1e-4) * wanted
    limits = jnp.finfo(beta.dtype)
    least = jnp.maximum(4 * limits.eps * beta, 1e4 * limits.tiny).astype(beta.dtype)
    whole = upto - beta

    def halve(_: Any, bounds: Any) -> Any:
        low, high = bounds
        middle = 0.5 * (low + high)
        good = effective(jnp.exp(middle)) >= wanted
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, _ = lax.fori_loop(0, HALVINGS, halve, (jnp.log(least), jnp.log(jnp.maximum(whole, least))))
    fits = effective(whole) >= wanted
    reached = jnp.maximum(beta + jnp.exp(low), beta + least)
    end = jnp.where(fits | (reached >= upto), jnp.asarray(upto, beta.dtype), reached)
    return Step(end, ~fits & ~(effective(least) >= wanted))
