"""Arrays with named leading axes, one for each summed choice: the bookkeeping of exact summation.

A `Named` array depends on the variables `dims` (ids in increasing order), whose axes lead. Operations are lifted by
nested `vmap`; factors are summed out in the log domain, the variable with the smallest neighbourhood first.

A choice with many independent elements (a plate) is one variable too. Its axis of outcomes is shared by all elements,
and the elements keep their place in the array as *lanes*: entry (k, ..., i, ...) is the value at element i if its own
outcome is k. That is right as long as no operation mixes elements (`ppl.semantics.elementwise` checks it). A factor
with lanes is summed over outcomes lane by lane, and its lanes are multiplied (added up) at the end.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Dims = tuple[int, ...]
Lanes = tuple[tuple[int, int], ...]
"""Pairs (axis of the array without its variables, lane id), by increasing axis."""


class Named(NamedTuple):
    """An array whose leading axes are the variables `dims`, in increasing order; some of the other axes are lanes."""

    array: Any
    dims: Dims = ()
    lanes: Lanes = ()


EMPTY = Named(jnp.zeros(()))
"""Stands for a value that nobody needs."""


class Mixed(Exception):
    """Elements of these variables are mixed, so that they cannot be summed one by one."""

    def __init__(self, variables: Iterable[int]) -> None:
        super().__init__("elements are mixed")
        self.variables = tuple(variables)


@dataclass
class Variables:
    """The variables made so far: how many outcomes, which lanes; and the noise, where a draw is wanted of every sum.

    Lanes of two variables that meet along one axis are the same (`alias`).
    """

    sizes: dict[int, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    lanes: dict[int, Dims] = field(default_factory=dict)
    alias: dict[int, int] = field(default_factory=dict)
    key: Any = None
    counter: Any = field(default_factory=itertools.count)

    def fresh(self, size: int, name: str = "", lanes: Dims = ()) -> int:
        """A new variable with `size` outcomes."""
        variable = next(self.counter)
        self.sizes[variable], self.names[variable], self.lanes[variable] = size, name, lanes
        return variable

    def find(self, lane: int) -> int:
        """The lane's representative."""
        while lane in self.alias:
            lane = self.alias[lane]
        return lane

    def same(self, first: int, second: int) -> int:
        """Two lanes are one from now on."""
        first, second = sorted((self.find(first), self.find(second)))
        if first != second:
            self.alias[second] = first
        return first

    def lanes_of(self, dims: Iterable[int]) -> set[int]:
        """The lanes of some variables."""
        return {self.find(lane) for dim in dims for lane in self.lanes.get(dim, ())}

    def outcomes(self, dims: Iterable[int]) -> int:
        """The number of joint outcomes of some variables."""
        return math.prod(self.sizes[dim] for dim in dims)

    def split(self, count: int) -> Any:
        """Keys for as many lanes or steps, or None where nothing is drawn."""
        key = self.next_key()
        return None if key is None else jax.random.split(key, count)

    @contextmanager
    def keyed(self, key: Any) -> Iterator[None]:
        """Inside a lane or a step, with a key of its own."""
        outer, self.key = self.key, key
        try:
            yield
        finally:
            self.key = outer

    def next_key(self) -> Any:
        """A key for one sum, or None where nothing is drawn."""
        return None if self.key is None else jax.random.fold_in(self.key, next(self.counter))


def refuse_lanes(operands: Sequence[Named]) -> None:
    """Raise `Mixed` where elements of a plate go into a loop, a branch or a ppl.vmap."""
    dims = [dim for operand in operands if operand.lanes for dim in operand.dims]
    if dims:
        raise Mixed(dims)


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


# --- factors: their axes are variables, then lanes by increasing id --------------------------------------------------


def as_factor(value: Named, variables: Variables) -> Named:
    """The sum of a value over all axes but its lanes, which are put in order."""
    count, rank = len(value.dims), jnp.ndim(value.array)
    lanes = _distinct([(variables.find(lane), count + axis) for axis, lane in value.lanes], value)
    kept = [axis for _, axis in sorted(lanes)]
    rest = tuple(axis for axis in range(count, rank) if axis not in kept)
    order = (*range(count), *kept, *rest)
    array = value.array if order == tuple(range(rank)) else jnp.transpose(value.array, order)
    total = jnp.sum(array, axis=tuple(range(count + len(kept), rank))).astype(jnp.result_type(float))
    return Named(total, value.dims, tuple((i, lane) for i, (lane, _) in enumerate(sorted(lanes))))


def _distinct(lanes: list[tuple[int, int]], value: Named) -> list[tuple[int, int]]:
    if len({lane for lane, _ in lanes}) < len(lanes):
        raise Mixed(value.dims)
    return lanes


def _current(factor: Named, variables: Variables) -> Named:
    """A factor with lanes under their present names, in order."""
    if all(lane not in variables.alias for _, lane in factor.lanes):
        return factor
    return as_factor(factor, variables)


def product(factors: Sequence[Named]) -> Named:
    """The product of factors (log domain: their sum)."""
    dims = union(factors)
    lanes = sorted({lane for factor in factors for _, lane in factor.lanes})
    total = jnp.zeros((), jnp.result_type(float))
    for factor in factors:
        array, own = aligned(factor, dims), [lane for _, lane in factor.lanes]
        shape = iter(array.shape[len(dims) :])
        if own != lanes:
            array = array.reshape(*array.shape[: len(dims)], *(next(shape) if lane in own else 1 for lane in lanes))
        total = total + array
    return Named(total, dims, tuple(enumerate(lanes)))


def settle(factor: Named, variables: Variables, lanes: set[int]) -> Named:
    """Multiply a factor over all lanes but the given ones."""
    gone = [axis for axis, lane in factor.lanes if lane not in lanes]
    if not gone:
        return factor
    if variables.lanes_of(factor.dims) - lanes:
        raise Mixed(factor.dims)
    array = jnp.sum(factor.array, axis=tuple(len(factor.dims) + axis for axis in gone))
    left = [lane for _, lane in factor.lanes if lane in lanes]
    return Named(array, factor.dims, tuple(enumerate(left)))


def sum_out(factors: Sequence[Named], summed: Sequence[int], variables: Variables) -> list[Named]:
    """Sum variables out of a product of factors, greedily: most lanes first, then the smallest joint table."""
    remaining, left = [_current(factor, variables) for factor in factors], set(summed)
    while left:
        variable = min(left, key=lambda v: (-len(variables.lanes_of([v])), _table_size(remaining, v, variables), -v))
        lanes = variables.lanes_of([variable])
        touching = [settle(factor, variables, lanes) for factor in remaining if variable in factor.dims]
        remaining = [factor for factor in remaining if variable not in factor.dims]
        left.remove(variable)
        if touching:
            joint = product(touching)
            axis = joint.dims.index(variable)
            dims = tuple(dim for dim in joint.dims if dim != variable)
            total = log_sum(joint.array, axis, variables.next_key())
            remaining.append(_needed_lanes(Named(total, dims, joint.lanes), variables))
    return [_needed_lanes(factor, variables) for factor in remaining]


def _needed_lanes(factor: Named, variables: Variables) -> Named:
    return settle(factor, variables, variables.lanes_of(factor.dims))


def _table_size(factors: Sequence[Named], variable: int, variables: Variables) -> int:
    return variables.outcomes(union([factor for factor in factors if variable in factor.dims]))


def log_sum(array: Any, axis: int, key: Any = None) -> Any:
    """Log-sum-exp along an axis; with a key, its derivative is the indicator of a draw in place of its expectation."""
    return safe_logsumexp(array, axis) if key is None else drawn_logsumexp(array, axis, key)


def safe_logsumexp(array: Any, axis: int) -> Any:
    """Log-sum-exp along an axis whose gradient is zero, not NaN, where every entry is minus infinity."""
    top = jax.lax.stop_gradient(jnp.max(array, axis=axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.sum(jnp.exp(array - top), axis=axis)
    alive = total > 0
    return jnp.where(alive, jnp.log(jnp.where(alive, total, 1.0)) + jnp.squeeze(top, axis), -jnp.inf)


def drawn_logsumexp(array: Any, axis: int, key: Any) -> Any:
    """Log-sum-exp whose derivative is the indicator of one draw with probabilities in proportion to `exp(array)`.

    The derivative of log-sum-exp is those probabilities, the expectation of the indicator. With it replaced by a draw,
    the derivative of a nested sum is the indicator of a joint draw: the outer sum is drawn first, and only the inner
    sums under the outcome drawn get a cotangent of one. (Backward sampling of a chain is the case of sums in a loop.)
    """
    noise = jax.random.gumbel(key, jnp.shape(array), jnp.result_type(array))
    return _with_draw(array, noise, axis)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_draw(array: Any, noise: Any, axis: int) -> Any:
    del noise
    return safe_logsumexp(array, axis)


def _with_draw_forward(array: Any, noise: Any, axis: int) -> Any:
    return safe_logsumexp(array, axis), (array, noise)


def _with_draw_backward(axis: int, saved: Any, cotangent: Any) -> Any:
    array, noise = saved
    chosen = jnp.argmax(array + noise, axis=axis)
    indicator = jax.nn.one_hot(chosen, array.shape[axis], axis=axis, dtype=array.dtype)
    return indicator * jnp.expand_dims(cotangent, axis), jnp.zeros_like(noise)


_with_draw.defvjp(_with_draw_forward, _with_draw_backward)
