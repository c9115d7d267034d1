"""Arrays whose entries each depend on one element of a choice: what `separable` follows through a jaxpr.

A `Term` holds what is followed (`parts`) and the `index` of the element that each entry depends on; a `Sum` several
terms. Here are also the tables of operations: which move data, which act entry by entry, which reduce.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

Parts = dict[str, Any]
NOTHING = -1
"""The index of an entry that depends on no element."""


class NotSeparable(Exception):
    """An operation that joins elements of the choice, or that the algebra does not know."""


class Term(NamedTuple):
    """An array that depends on the choice: `parts` and `index` have its shape, and behind it axes yet to be summed.

    Attributes:
        parts: What is followed, by name.
        index: For each entry, the one flat element of the choice on which it depends.
        sign: 1 or -1 where the array is known to hold copies of the choice's elements, or their negatives; else 0.
    """

    parts: Parts
    index: Any
    sign: int = 0


class Sum(NamedTuple):
    """A sum of terms, each with the array's axes first. A single term without further axes is the plain case."""

    terms: tuple[Term, ...]


@runtime_checkable
class Algebra(Protocol):
    """What is followed through elementwise operations."""

    def start(self, value: Any) -> Parts:
        """The parts of the choice itself."""
        ...

    def elementwise(self, equation: Any, operands: Sequence[Any]) -> Term:
        """An elementwise operation on constants and `Term`s of one index."""
        ...

    def constant(self, value: Any) -> Parts:
        """The parts of a constant."""
        ...


def not_separable(equation: Any, why: str) -> NotSeparable:
    """The error of an operation."""
    return NotSeparable(f"the operation {equation.primitive.name!r} {why}")


def merged(one: Any, other: Any, equation: Any) -> Any:
    """The common index of two terms."""
    if one is other:
        return one
    known = isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and one.ndim == other.ndim
    if known and np.all((one == other) | (one == NOTHING) | (other == NOTHING)):
        return np.asarray(np.maximum(one, other))
    raise not_separable(equation, "joins different elements")


def widened(term: Term, rank: int, shape: tuple[int, ...]) -> Term:
    """A term over the shape of an operation's result, with its axes yet to be summed behind."""
    lead, behind = np.shape(term.index)[:rank], np.shape(term.index)[rank:]
    if lead == shape:
        return term
    before = (*(1,) * (len(shape) - rank), *lead, *behind)

    def wide(x: Any, xnp: Any) -> Any:
        return xnp.broadcast_to(xnp.broadcast_to(x, (*lead, *behind)).reshape(before), (*shape, *behind))

    index = wide(term.index, np if isinstance(term.index, np.ndarray) else jnp)
    return Term({name: wide(x, jnp) for name, x in term.parts.items()}, index, term.sign)


def behind(constant: Any, shape: tuple[int, ...], term: Term) -> Any:
    """A constant over a term's axes, those yet to be summed included."""
    full = np.shape(term.index)
    lead = jnp.broadcast_to(constant, shape).reshape((*shape, *(1,) * (len(full) - len(shape))))
    return jnp.broadcast_to(lead, full)


def constant_along(index: np.ndarray, axes: tuple[int, ...]) -> bool:
    """Whether entries along some axes depend on one element at most."""
    most = index.max(axis=axes, keepdims=True) if index.size else index
    return index.size > 0 and bool(np.all((index == most) | (index == NOTHING)))


INLINED = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
)
MOVING = frozenset(
    {
        *("broadcast_in_dim", "reshape", "squeeze", "transpose", "slice", "rev", "concatenate", "stack", "gather"),
        *("dynamic_slice", "expand_dims"),
    }
)
"""Operations that only move data."""
DATA = dict.fromkeys(("concatenate", "stack"), lambda operands: range(len(operands)))
"""Which operands are data rather than places: the first alone, unless listed."""
REDUCING = frozenset({"reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin"})
LINEAR = frozenset({"neg", "convert_element_type", "mul", "div", "copy"})
ELEMENTWISE = frozenset(
    {
        *LINEAR,
        *("exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "sin", "cos", "tan", "sqrt", "rsqrt", "cbrt"),
        *("pow", "integer_pow", "square", "abs", "sign", "floor", "ceil", "round", "max", "min", "rem", "clamp"),
        *("and", "or", "xor", "not", "eq", "ne", "lt", "le", "gt", "ge", "select_n", "is_finite", "nextafter"),
        *("lgamma", "digamma", "erf", "erfc", "erf_inv", "reduce_precision", "stop_gradient", "atan2", "sinh"),
        *("cosh", "asin", "acos", "atan", "asinh", "acosh", "atanh"),
    }
)
"""Operations that act entry by entry."""
