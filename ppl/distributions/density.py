"""Log densities in place of NumPyro's: minus infinity outside elementwise supports, and exact for certain coins.

NumPyro leaves the density outside the support undefined (an exponential scores -1 as if it were possible) and clamps
probabilities away from 0 and 1; a measure must give an impossible value mass zero.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from ppl.distributions.scaled import Scaled

_UNBOUNDED = (type(constraints.real),)
_CHECKED = (
    constraints.interval,
    constraints.integer_interval,
    constraints.greater_than,
    constraints.integer_greater_than,
    constraints.less_than,
    type(constraints.boolean),
    type(constraints.positive),
    type(constraints.nonnegative),
    type(constraints.unit_interval),
    type(constraints.nonnegative_integer),
    type(constraints.positive_integer),
    type(constraints.open_interval(0.0, 1.0)),
)
"""Supports that are checked element by element. Those with a tolerance (simplex, Cholesky) are left to the
distribution."""


def log_prob(measure: Any, value: Any) -> Any:
    """Log density of a value, minus infinity outside the support; batch-shaped, in nats."""
    if isinstance(measure, dist.MaskedDistribution):
        return _masked_log_prob(measure, value)
    if isinstance(measure, dist.ExpandedDistribution):
        return jnp.broadcast_to(log_prob(measure.base_dist, value), _batch(measure, value))
    if isinstance(measure, dist.Independent):
        score = log_prob(measure.base_dist, value)
        return jnp.sum(score, axis=tuple(range(-measure.reinterpreted_batch_ndims, 0)))
    if isinstance(measure, Scaled):
        return measure.scale * log_prob(measure.base_dist, value)
    rule = EXACT.get(type(measure))
    score = measure.log_prob(value) if rule is None else rule(measure, value)
    inside = in_support(measure, value)
    return score if inside is None else jnp.where(inside, score, -jnp.inf)


def has_mask(measure: Any) -> bool:
    """Whether a mask lies somewhere inside a distribution: its absent elements may hold anything, NaN included."""
    if isinstance(measure, dist.MaskedDistribution):
        return True
    return isinstance(measure, dist.Distribution) and has_mask(getattr(measure, "base_dist", None))


def in_support(measure: Any, value: Any) -> Any | None:
    """Whether a value lies in the support, batch-shaped; None where every value does or the check has a tolerance."""
    support = getattr(measure, "support", None)
    return None if support is None or not _is_checked(support) else support(value)


def _is_checked(support: Any) -> bool:
    if isinstance(support, constraints.independent):
        return _is_checked(support.base_constraint)
    return isinstance(support, _CHECKED) and not isinstance(support, _UNBOUNDED)


def _masked_log_prob(measure: Any, value: Any) -> Any:
    base, mask = measure.base_dist, measure._mask
    if mask is True:
        return log_prob(base, value)
    shape = _batch(measure, value)
    if mask is False:
        return jnp.zeros(shape)
    present = jnp.reshape(mask, (*jnp.shape(mask), *(1,) * measure.event_dim))
    safe = jnp.where(present, value, base.support.feasible_like(value))
    return jnp.where(mask, log_prob(base, safe), 0.0)


def _batch(measure: Any, value: Any) -> tuple[int, ...]:
    """The shape of a log density: the batch shape broadcast against the leading axes of the value."""
    leading = jnp.shape(value)[: jnp.ndim(value) - measure.event_dim]
    return tuple(np.broadcast_shapes(measure.batch_shape, leading))


def _bernoulli_probs(measure: dist.BernoulliProbs, value: Any) -> Any:
    """`log p` or `log(1 - p)`, with zero gradient for the outcome that is impossible."""
    chance = jnp.where(value == 1, measure.probs, 1.0 - measure.probs)
    possible = chance > 0
    return jnp.where(possible, jnp.log(jnp.where(possible, chance, 1.0)), -jnp.inf)


def _bernoulli_logits(measure: dist.BernoulliLogits, value: Any) -> Any:
    """`-log(1 + exp(-s logit))` with s = 1 or -1: one branch-free expression, right at infinite logits."""
    sign = 1.0 - 2.0 * value
    return -jnp.logaddexp(0.0, sign * measure.logits)


EXACT: dict[type, Callable[[Any, Any], Any]] = {
    dist.BernoulliProbs: _bernoulli_probs,
    dist.BernoulliLogits: _bernoulli_logits,
}
"""Densities of ours in place of NumPyro's: exact at the boundary, and cheaper."""
