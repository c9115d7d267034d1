"""Arrays with named leading axes, one for each summed choice: the bookkeeping of exact summation.

A `Named` array depends on the variables `dims` (ids in increasing order), whose axes lead. Operations are lifted by
nested `vmap`; factors are summed out in the log domain, the variable with the smallest neighbourhood first.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Dims = tuple[int, ...]


class Named(NamedTuple):
    """An array whose leading axes are the variables `dims`, in increasing order."""

    array: Any
    dims: Dims = ()


EMPTY = Named(jnp.zeros(()))
"""Stands for a value that nobody needs."""


def union(operands: Sequence[Named]) -> Dims:
    """All variables that any operand depends on."""
    return tuple(sorted({dim for operand in operands for dim in operand.dims}))


def lift(function: Callable[..., list[Any]], operands: Sequence[Named]) -> list[Named]:
    """Apply a function of plain arrays that returns a list of arrays to named ones."""
    dims = union(operands)
    mapped = function
    for dim in reversed(dims):
        axes = tuple(0 if dim in operand.dims else None for operand in operands)
        mapped = jax.vmap(mapped, in_axes=axes)
    return [Named(result, dims) for result in mapped(*(operand.array for operand in operands))]


def aligned(operand: Named, dims: Dims) -> Any:
    """The operand's array with an axis (of size one where it does not depend on it) for each of the given variables."""
    array = jnp.asarray(operand.array)
    shape = iter(array.shape[: len(operand.dims)])
    lead = [next(shape) if dim in operand.dims else 1 for dim in dims]
    return array.reshape(*lead, *array.shape[len(operand.dims) :])


def product(factors: Sequence[Named]) -> Named:
    """The product of factors (log domain: their sum)."""
    dims = union(factors)
    total = jnp.zeros((), jnp.result_type(float))
    for factor in factors:
        total = total + aligned(factor, dims)
    return Named(total, dims)


def sum_out(factors: Sequence[Named], variables: Sequence[int], sizes: dict[int, int]) -> list[Named]:
    """Sum variables out of a product of factors, greedily: the variable whose joint table is smallest first."""
    remaining, left = list(factors), set(variables)
    while left:
        variable = min(left, key=lambda v: (_table_size(remaining, v, sizes), -v))
        touching = [factor for factor in remaining if variable in factor.dims]
        remaining = [factor for factor in remaining if variable not in factor.dims]
        left.remove(variable)
        if touching:
            joint = product(touching)
            axis = joint.dims.index(variable)
            dims = tuple(dim for dim in joint.dims if dim != variable)
            remaining.append(Named(safe_logsumexp(joint.array, axis), dims))
    return remaining


def _table_size(factors: Sequence[Named], variable: int, sizes: dict[int, int]) -> int:
    dims = union([factor for factor in factors if variable in factor.dims])
    return math.prod(sizes[dim] for dim in dims)


def safe_logsumexp(array: Any, axis: int) -> Any:
    """Log-sum-exp along an axis whose gradient is zero, not NaN, where every entry is minus infinity."""
    top = jax.lax.stop_gradient(jnp.max(array, axis=axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.sum(jnp.exp(array - top), axis=axis)
    alive = total > 0
    return jnp.where(alive, jnp.log(jnp.where(alive, total, 1.0)) + jnp.squeeze(top, axis), -jnp.inf)
