"""Finite laws: the outcomes of a discrete distribution with their log probabilities, for exact enumeration.

A distribution is finite when the *number* of its outcomes is known while tracing; the outcomes themselves and their
probabilities may be traced arrays. An object may say so itself with a method `outcomes() -> Outcomes`.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from ppl.distributions.density import log_prob


class Outcomes(NamedTuple):
    """The outcomes of a finite law.

    `values` is a pytree with leading axes `(K, *batch)`; `log_probs` has shape `(K, *batch)`, in nats. The batch
    elements are independent; an outcome may occur twice (its masses add) and may have mass zero.
    """

    values: Any
    log_probs: Any


@runtime_checkable
class Finite(Protocol):
    """A measure that lists its own outcomes."""

    def outcomes(self) -> Outcomes:
        """All outcomes with their log probabilities."""
        ...


def outcomes(measure: Any) -> Outcomes | None:
    """The outcomes of a measure, or None where it is not finite or its size is not known while tracing.

    Examples:
        >>> import ppl.distributions as dist
        >>> outcomes(dist.Bernoulli(0.25)).values.tolist()
        [0, 1]
    """
    if isinstance(measure, Finite):
        return measure.outcomes()
    if isinstance(measure, dist.Independent):
        return outcomes(measure.base_dist)
    if isinstance(measure, dist.Delta):
        log_density = jnp.broadcast_to(jnp.asarray(measure.log_density), measure.batch_shape)
        return Outcomes(jnp.asarray(measure.v)[None], log_density[None])
    if isinstance(measure, dist.ExpandedDistribution):
        return _expanded(outcomes(measure.base_dist), measure)
    if isinstance(measure, dist.CategoricalProbs | dist.CategoricalLogits):
        return _categories(measure)
    if not getattr(measure, "has_enumerate_support", False):
        return None
    try:
        values = measure.enumerate_support(expand=True)
    except (NotImplementedError, jax.errors.ConcretizationTypeError):
        return None
    return Outcomes(values, log_prob(measure, values))


def _categories(measure: Any) -> Outcomes:
    """Every category, whose log probabilities are read off without looking any up."""
    rows = measure.logits
    if isinstance(measure, dist.CategoricalLogits):
        rows = rows - jax.scipy.special.logsumexp(rows, axis=-1, keepdims=True)
    return Outcomes(measure.enumerate_support(expand=True), jnp.moveaxis(rows, -1, 0))


def _expanded(found: Outcomes | None, measure: Any) -> Outcomes | None:
    """The outcomes of a distribution with a smaller batch shape, spread over the larger one."""
    if found is None:
        return None
    return jax.tree.map(lambda leaf: spread(leaf, found.log_probs.ndim - 1, measure.batch_shape, leading=1), found)


def spread(leaf: Any, rank: int, shape: tuple[int, ...], leading: int = 0) -> Any:
    """An array over a batch, repeated over a larger one.

    Args:
        leaf: Shape `(*leading, *small, *event)`.
        rank: The number of the small batch's axes.
        shape: The larger batch shape, to which the small one broadcasts.
        leading: The number of axes in front of the batch.

    Returns:
        Shape `(*leading, *shape, *event)`.
    """
    first, last = leaf.shape[:leading], leaf.shape[leading + rank :]
    small = leaf.shape[leading : leading + rank]
    wide = leaf.reshape(*first, *(1,) * (len(shape) - rank), *small, *last)
    return jnp.broadcast_to(wide, (*first, *shape, *last))


def pick(outcome_list: Outcomes, index: Any) -> tuple[Any, Any]:
    """The value and log probability of one outcome for every batch element; `index` has the batch's shape."""
    batch = outcome_list.log_probs.shape[1:]
    flat_index = jnp.reshape(index, (-1,))
    lanes = jnp.arange(flat_index.shape[0])

    def take(values: Any) -> Any:
        event = values.shape[1 + len(batch) :]
        return jnp.array(values).reshape(values.shape[0], -1, *event)[flat_index, lanes].reshape(*batch, *event)

    return jax.tree.map(take, outcome_list.values), take(outcome_list.log_probs)
