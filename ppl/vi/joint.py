"""All joint outcomes of a batch of independent finite choices."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ppl.distributions.finite import Outcomes


def joint_size(found: Outcomes) -> int:
    """The number of joint outcomes of a batch: K to the power of the number of its elements."""
    outcomes, *batch = found.log_probs.shape
    return outcomes ** math.prod(batch)


def joint_outcomes(found: Outcomes) -> Outcomes:
    """The joint outcomes of all batch elements, as one list.

    Args:
        found: The outcomes of each element, leading axes `(K, *batch)`.

    Returns:
        Values of shape `(K ** n, *batch, *event)` and log probabilities of shape `(K ** n,)`, in nats.

    Examples:
        >>> two = Outcomes(jnp.array([[0, 0], [1, 1]]), jnp.log(jnp.array([[0.25, 0.5], [0.75, 0.5]])))
        >>> values, log_probs = joint_outcomes(two)
        >>> values.tolist(), round(float(jnp.exp(log_probs).sum()), 3)
        ([[0, 0], [0, 1], [1, 0], [1, 1]], 1.0)
    """
    size, *batch = found.log_probs.shape
    if not batch:
        return found
    count = math.prod(batch)
    digits = jnp.stack(jnp.unravel_index(jnp.arange(size**count), (size,) * count), axis=-1)  # (rows, count)
    lanes = jnp.arange(count)

    def rows(leaf: Any, event: tuple[int, ...]) -> Any:
        return leaf.reshape(size, count, *event)[digits, lanes[None, :]]

    def joint(leaf: Any) -> Any:
        event = leaf.shape[1 + len(batch) :]
        return rows(leaf, event).reshape(-1, *batch, *event)

    return Outcomes(jax.tree.map(joint, found.values), jnp.sum(rows(found.log_probs, ()), axis=-1))
