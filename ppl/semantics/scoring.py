"""Log densities that are minus infinity outside the support, and draws that differ by lane.

NumPyro leaves the density outside the support undefined (an exponential scores -1 as if it were possible); a measure must
give it mass zero.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from ppl.semantics.jaxpr import lane_sampler

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
"""Supports that are checked element by element. Those with a tolerance (simplex, Cholesky) are left to the distribution."""


def log_prob(measure: Any, value: Any) -> Any:
    """Log density of a value, minus infinity outside the support; batch-shaped, in nats."""
    if isinstance(measure, dist.MaskedDistribution):
        return _masked_log_prob(measure, value)
    score = measure.log_prob(value)
    inside = in_support(measure, value)
    return score if inside is None else jnp.where(inside, score, -jnp.inf)


def total_log_prob(measure: Any, value: Any) -> Any:
    """Sum of the log densities over the batch, in the default float type."""
    return jnp.sum(log_prob(measure, value)).astype(jnp.result_type(float))


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
    shape = jnp.broadcast_shapes(measure.batch_shape, jnp.shape(value)[: jnp.ndim(value) - measure.event_dim])
    if mask is False:
        return jnp.zeros(shape)
    present = jnp.reshape(mask, (*jnp.shape(mask), *(1,) * measure.event_dim))
    safe = jnp.where(present, value, base.support.feasible_like(value))
    return jnp.where(mask, log_prob(base, safe), 0.0)


def draw(measure: Any, key: Any, lanes: int) -> Any:
    """Draw a value; inside lanes every lane gets bits of its own from the shared key."""
    if lanes == 0:
        return measure.sample(key)
    return lane_sampler(lambda key, measure: measure.sample(key), key, measure)


def site_key(key: Any, address: str, loop: tuple[Any, ...]) -> Any:
    """The key of a choice: from the run's key, its address and its loop indices, never from the order of evaluation."""
    derived = jax.random.fold_in(key, address_hash(address))
    for index in loop:
        derived = jax.random.fold_in(derived, index)
    return derived


def address_hash(address: str) -> int:
    """A stable 32-bit hash of an address."""
    return int.from_bytes(hashlib.blake2b(address.encode(), digest_size=4).digest(), "little")
