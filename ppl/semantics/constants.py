"""Outcomes that are known while tracing: index arithmetic is done at once, and rows of a table need no gather.

The outcomes of a choice are mostly 0, 1, ..., K - 1, whatever its parameters. So `table[z]` for all outcomes at once is
the table itself, spread over the elements of a plate; its derivative is a sum, where that of a gather is a scatter.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ppl.semantics import jaxpr as jp
from ppl.semantics.named import Named, lift, union

LARGEST = 2**22
"""The most numbers that are worked out while tracing."""


def is_known(operand: Named) -> bool:
    """Whether the numbers are known while tracing."""
    return not isinstance(operand.array, Tracer)


def evaluated(equation: Any, operands: list[Named]) -> list[Named]:
    """Evaluate an equation on named arrays; integers at once where all operands are known."""
    if all(is_known(operand) for operand in operands) and _is_small_and_integer(equation, operands):
        with jax.ensure_compile_time_eval():
            return [Named(np.asarray(r.array), r.dims) for r in lift(_function(equation), operands)]
    if equation.primitive.name == "gather":
        rows = _rows(equation, *operands)
        if rows is not None:
            return [rows]
    return lift(_function(equation), [_spread(operand) for operand in operands])


def _function(equation: Any) -> Any:
    return lambda *arrays: jp.evaluate(equation, arrays)


def _is_small_and_integer(equation: Any, operands: list[Named]) -> bool:
    rows = math.prod({d: jnp.shape(o.array)[i] for o in operands for i, d in enumerate(o.dims)}.values())
    avals = [var.aval for var in equation.outvars]
    plain = all(not jnp.issubdtype(a.dtype, jax.dtypes.extended) for a in avals)
    return (
        plain
        and all(jnp.issubdtype(a.dtype, jnp.integer) or a.dtype == bool for a in avals)
        and rows * sum(math.prod(a.shape) for a in avals) <= LARGEST
    )


def _constant(operand: Named) -> Any:
    """The known numbers by outcome where they do not differ along the other axes, else None."""
    if not is_known(operand) or jnp.size(operand.array) > LARGEST or jnp.size(operand.array) == 0:
        return None
    array, count = np.asarray(operand.array), len(operand.dims)
    first = array[(slice(None),) * count + (slice(0, 1),) * (array.ndim - count)]
    return first.reshape(array.shape[:count]) if np.all(array == first) else None


def _spread(operand: Named) -> Named:
    """Large known arrays that are constant along a plate are made in place, not written into the program."""
    if not isinstance(operand.array, np.ndarray) or operand.array.size < 1024:
        return operand
    first = _constant(operand)
    if first is None:
        return operand
    rank = operand.array.ndim - len(operand.dims)
    array = jnp.broadcast_to(jnp.asarray(first).reshape(*first.shape, *(1,) * rank), operand.array.shape)
    return operand._replace(array=array)


def _rows(equation: Any, table: Named, indices: Named) -> Named | None:
    """`table[z]` along one axis for an index that its choice's outcome settles."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape = equation.invars[0].aval.shape
    (axis, *more) = numbers.start_index_map or (None,)
    if more or axis is None or numbers.operand_batching_dims or numbers.collapsed_slice_dims != (axis,):
        return None
    if any(sizes[i] != length for i, length in enumerate(shape) if i != axis):
        return None
    if len(indices.dims) != 1 or indices.dims[0] in table.dims:
        return None
    chosen = _constant(indices)
    if chosen is None or chosen.min() < 0 or chosen.max() >= shape[axis]:
        return None
    return _placed(equation, table, indices.dims[0], _taken(table, axis, chosen))


def _taken(table: Named, axis: int, chosen: np.ndarray) -> Any:
    """Rows of a table along an axis of its body, which come first."""
    array = jnp.moveaxis(jnp.asarray(table.array), len(table.dims) + axis, 0)
    if np.array_equal(chosen, np.arange(len(array))):
        return array
    return jnp.stack([array[int(row)] for row in chosen])


def _placed(equation: Any, table: Named, variable: int, rows: Any) -> Named:
    """The variable's axis among the others, and the axes of the index, along which the rows are constant."""
    dims = union([table, Named(None, (variable,))])
    array = jnp.moveaxis(rows, 0, dims.index(variable))
    offsets, out = equation.params["dimension_numbers"].offset_dims, equation.outvars[0].aval.shape
    lead = array.shape[: len(dims)]
    inner = [length if axis in offsets else 1 for axis, length in enumerate(out)]
    return Named(jnp.broadcast_to(array.reshape(*lead, *inner), (*lead, *out)), dims)
