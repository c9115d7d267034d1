"""Optimisers that are equal where they do the same: two calls of `optax.adam(0.01)` need one compilation.

An optax optimiser is a pair of closures, new in every call, and equal to no other; compiled code is kept by equality.
`comparable` gives it functions that are equal where their code and everything they close over are.
"""

from collections.abc import Callable
from functools import partial
from types import CellType, FunctionType
from typing import Any

import jax
import numpy as np
import optax
from jax.core import Tracer


class Comparable:
    """A function, equal to others of the same code, defaults and closed-over values."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.key = _key(function, ())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function gives."""
        return self.function(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Comparable) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def comparable(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """An optimiser that takes extra arguments and is equal to others that do the same.

    Examples:
        >>> import optax
        >>> adam, again, faster = (comparable(optax.adam(rate)) for rate in (0.1, 0.1, 0.2))
        >>> adam == again, adam == faster
        (True, False)
    """
    full = optax.with_extra_args_support(optimizer)
    return optax.GradientTransformationExtraArgs(Comparable(full.init), Comparable(full.update))


def _key(value: Any, around: tuple[int, ...]) -> Any:
    """Something hashable that is equal for values that do the same; the object itself where nothing better is known.

    `around` are the ids of the functions that the value is closed over by: one that closes over itself ends there.
    """
    if isinstance(value, FunctionType):
        if id(value) in around:
            return around.index(id(value))
        cells = tuple(map(_content, value.__closure__ or ()))
        held = (cells, value.__defaults__, value.__kwdefaults__)
        return (value.__code__, id(value.__globals__), _key(held, (*around, id(value))))
    if isinstance(value, partial):
        return (partial, *(_key(x, around) for x in (value.func, value.args, value.keywords)))
    if isinstance(value, tuple | list):
        return (type(value), *(_key(x, around) for x in value))
    if isinstance(value, dict):
        return (dict, *((k, _key(x, around)) for k, x in value.items()))
    if isinstance(value, jax.Array | np.ndarray) and not isinstance(value, Tracer):
        return (type(value), value.shape, str(value.dtype), np.asarray(value).tobytes())
    return _plain(value)


def _content(cell: CellType) -> Any:
    """What a closure holds; nothing where its variable is not bound yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _plain(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return (type(value), value)


class _Same:
    """An object that is equal to itself alone."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)
