"""Prefix sums and maxima in blocks of 16: several times faster than `jnp.cumsum` on XLA's CPU backend.

`jnp.cumsum` becomes a reduce-window there, at about 7 ns an element; blocks multiplied by a triangle of ones take
about 1 ns. The sums are rounded in another order than a running sum's, so that a sum may be an ulp below the one
before it, or above it where the number between them is zero: whoever needs monotone sums has to see to it.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

BLOCK = 16
EXACT_COUNT = 2**24  # float32 holds every integer up to here


def prefix_sum(values: Float[Array, "n"]) -> Float[Array, "n"]:
    """Sums of the first 1, 2, ..., n values.

    Args:
        values: finite numbers.

    Returns:
        The inclusive prefix sums, in the dtype of `values`.

    Examples:
        >>> import jax.numpy as jnp
        >>> prefix_sum(jnp.array([1.0, 2.0, 4.0])).tolist()
        [1.0, 3.0, 7.0]
    """
    count = values.shape[0]
    if count <= BLOCK:
        return jnp.cumsum(values)
    blocks = _blocks(values)
    triangle = jnp.triu(jnp.ones((BLOCK, BLOCK), values.dtype))
    within = jnp.dot(blocks, triangle, precision=lax.Precision.HIGHEST)
    before = jnp.pad(prefix_sum(within[:, -1])[:-1], (1, 0))
    return (within + before[:, None]).reshape(-1)[:count]


def prefix_max(values: Float[Array, "n"]) -> Float[Array, "n"]:
    """Largest of the first 1, 2, ..., n values.

    Args:
        values: numbers that are not negative.

    Returns:
        The inclusive prefix maxima.

    Examples:
        >>> import jax.numpy as jnp
        >>> prefix_max(jnp.array([1.0, 4.0, 2.0])).tolist()
        [1.0, 4.0, 4.0]
    """
    count = values.shape[0]
    if count <= BLOCK:
        return lax.cummax(values)
    within = _blocks(values)
    for shift in (1, 2, 4, 8):  # each step doubles the number of values that a maximum has seen
        within = jnp.maximum(within, jnp.pad(within[:, :-shift], ((0, 0), (shift, 0))))
    before = jnp.pad(prefix_max(within[:, -1])[:-1], (1, 0))
    return jnp.maximum(within, before[:, None]).reshape(-1)[:count]


def prefix_count(counts: Int32[Array, "n"]) -> Int32[Array, "n"]:
    """Exact prefix sums of small counts.

    Args:
        counts: non-negative integers whose total fits an int32. They are summed in float32 where that is exact:
            where there are at most 2^24 of them and their total is no more than that.

    Returns:
        The inclusive prefix sums.

    Examples:
        >>> import jax.numpy as jnp
        >>> prefix_count(jnp.array([0, 2, 1], jnp.int32)).tolist()
        [0, 2, 3]
    """
    if counts.shape[0] >= EXACT_COUNT:
        return jnp.cumsum(counts)
    return prefix_sum(counts.astype(jnp.float32)).astype(jnp.int32)


def _blocks(values: Array) -> Array:
    """Values in rows of one block each, filled up with zeros."""
    rows = -(-values.shape[0] // BLOCK)
    return jnp.pad(values, (0, rows * BLOCK - values.shape[0])).reshape(rows, BLOCK)
