"""From a Python function and its arguments to a staged program: traced once a structure, then cached.

Array leaves of the arguments are operands of the jaxpr; all other leaves are static and part of the cache's key. So the
same program on new data of the same shapes is neither traced nor compiled again.
"""

import difflib
import linecache
import traceback
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from ppl.errors import (
    AddressError,
    MeasureError,
    PplError,
    PythonControlFlowError,
    ReturnValueError,
    ShapeError,
    StaticArgumentError,
)
from ppl.semantics import jaxpr as jp
from ppl.semantics import scope
from ppl.semantics.site import SAMPLED, SiteInfo, Source, is_library_file, user_source
from ppl.semantics.table import Entry, site_table

_NEEDS_CONCRETE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
"""What JAX raises where Python asks for a traced value: `if`, `float()`, `x[x > 0]`, `np.sin(x)`, `range(x)`."""


class Static(NamedTuple):
    """A non-array leaf of the arguments; its type is part of its identity (1, 1.0 and True differ)."""

    kind: type
    value: Hashable


class Arguments(NamedTuple):
    """Arguments cut into array leaves and the rest: `tree` and, for each leaf, a `Static` or None for an array."""

    tree: Any
    statics: tuple[Static | None, ...]


class StagedProgram(NamedTuple):
    """A traced program: its code, output tree and avals, and its table of sites."""

    code: jp.Code
    out_tree: Any
    out_avals: tuple[Any, ...]
    table: dict[str, Entry]
    infos: dict[str, SiteInfo]


def partition(tree_of_arguments: Any, name: str) -> tuple[tuple[Any, ...], Arguments]:
    """Cut arguments into dynamic leaves (arrays) and static ones."""
    leaves, tree = jax.tree.flatten(tree_of_arguments)
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "OSUMm":
            raise _unusable(tree_of_arguments, index, name, f"an array of dtype {leaf.dtype}, which JAX lacks")
    dynamic = tuple(leaf for leaf in leaves if is_array(leaf))
    for index, leaf in enumerate(leaves):
        if not is_array(leaf):
            _check_static(leaf, tree_of_arguments, index, name)
    statics = tuple(None if is_array(leaf) else Static(type(leaf), leaf) for leaf in leaves)
    return dynamic, Arguments(tree, statics)


def merge(dynamic: tuple[Any, ...], arguments: Arguments) -> Any:
    """Put arguments together again."""
    rest = iter(dynamic)
    leaves = [next(rest) if static is None else static.value for static in arguments.statics]
    return jax.tree.unflatten(arguments.tree, leaves)


def is_array(leaf: Any) -> bool:
    """Whether a leaf is bound dynamically."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _check_static(leaf: Any, arguments: Any, index: int, name: str) -> None:
    try:
        hash(leaf)
    except TypeError:
        what = f"of type {type(leaf).__name__}, which is neither an array nor hashable"
        raise _unusable(arguments, index, name, what) from None


def _unusable(arguments: Any, index: int, name: str, what: str) -> StaticArgumentError:
    path = jax.tree_util.tree_flatten_with_path(arguments)[0][index][0]
    which = jax.tree_util.keystr(path[1:], simple=True, separator=".")
    return StaticArgumentError(
        f"The argument {which!r} of the model {name!r}, called at {user_source()}, is {what}.\n"
        "Expected: arrays of numbers (bound dynamically), or hashable values (bound statically). Register the class as "
        "a pytree, or convert the data to an array of numbers."
    )


def staged_program(function: Callable[..., Any], arguments: Arguments, dynamic: tuple[Any, ...]) -> StagedProgram:
    """Trace a program, or take it from the cache."""
    avals = tuple(jp.aval_of(leaf) for leaf in dynamic)
    return _staged(function, arguments, avals, jax.config.read("jax_enable_x64"))


@lru_cache(maxsize=2048)
def _staged(function: Callable[..., Any], arguments: Arguments, avals: tuple[Any, ...], x64: object) -> StagedProgram:
    del x64

    def flat(*leaves: Any) -> Any:
        args, kwargs = merge(leaves, arguments)
        return _checked_output(function(*args, **kwargs), function)

    with scope.entered(scope.Scope()):
        try:
            staged = jp.stage(flat, *avals)
        except _NEEDS_CONCRETE as error:
            raise python_control_flow(error) from error
        except (AssertionError, ValueError) as error:
            translated = _in_users_words(error)
            if translated is None:
                raise
            raise translated from error
    table = site_table(staged.code.jaxpr)
    infos = {info.address: info for entry in table.values() for info in entry.infos}
    return StagedProgram(staged.code, staged.out_tree, staged.out_avals, table, infos)


def _in_users_words(error: Exception) -> PplError | None:
    """A library's error while the model was read, as one of ours with the user's line; None for other errors."""
    frames = list(traceback.walk_tb(error.__traceback__))
    users = [frame for frame in frames if not is_library_file(frame[0].f_code.co_filename)]
    if not users or not is_library_file(frames[-1][0].f_code.co_filename):
        return None
    filename, line = users[-1][0].f_code.co_filename, users[-1][1]
    where = f"{Source(filename, line)}\n    {linecache.getline(filename, line).strip()}"
    if isinstance(error, AssertionError) and "numpyro" in frames[-1][0].f_code.co_filename:
        return MeasureError(
            f"A NumPyro statement was met inside a model at {where}\nExpected: ppl.sample, ppl.factor, ppl.plate "
            "of this package. To use a NumPyro model unchanged: ppl.from_numpyro(model)(...)."
        )
    if "ncompatible shapes" in str(error):
        return ShapeError(
            f"Shapes do not fit together at {where}\n{error}\nExpected: shapes that broadcast. Inside a plate, "
            "every parameter has the plate's size in the plate's dimension, or size one there."
        )
    return None


def _checked_output(value: Any, function: Callable[..., Any]) -> Any:
    for path, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex | bool):
            name = getattr(function, "__name__", "a program")
            hint = (
                "To return a function, return jax.tree_util.Partial(f, *arrays), whose arrays are part of the value."
                if callable(leaf)
                else "Return arrays, in any pytree."
            )
            raise ReturnValueError(
                f"The model {name!r}{_defined_at(function)} returned a {type(leaf).__name__} at "
                f"{jax.tree_util.keystr(path) or 'the top'}.\n"
                f"Expected: a pytree of arrays. {hint}"
            )
    return value


def _defined_at(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return "" if code is None else f" ({Source(code.co_filename, code.co_firstlineno)})"


def python_control_flow(error: Exception) -> PythonControlFlowError:
    """The user's own line, and the choices that a name on that line holds."""
    frames = [f for f in traceback.walk_tb(error.__traceback__) if not is_library_file(f[0].f_code.co_filename)]
    if not frames:
        return PythonControlFlowError(str(error))
    frame, line = frames[-1]
    filename = frame.f_code.co_filename
    text = linecache.getline(filename, line).strip()
    return PythonControlFlowError(
        f"Python needed the concrete value of a traced quantity at {filename}:{line}\n    {text}\n"
        "Inside a model, random choices and array arguments are traced: their values are not known while the model is "
        f"read.\n{_instead(error)}{_suspects(frame, text)}"
    )


def _instead(error: Exception) -> str:
    """What to write in place of the Python that asked for the value."""
    return next((fix for kind, fix in _INSTEAD.items() if isinstance(error, kind)), _OTHERWISE)


_INSTEAD = {
    jax.errors.TracerBoolConversionError: "Instead of `if`, use jax.lax.cond or jnp.where; instead of `while`, "
    "jax.lax.while_loop or jax.lax.scan; instead of `and`, `or`, `not`: `&`, `|`, `~`.",
    jax.errors.TracerIntegerConversionError: "Instead of `for i in range(n)`, use jax.lax.scan or jax.lax.fori_loop; "
    "instead of an index into a list, one into an array (jnp.array(values)[i]) or jax.lax.switch. Pass sizes as Python "
    "integers, which are bound statically.",
    jax.errors.NonConcreteBooleanIndexError: "x[mask] has no fixed size. Use jnp.where(mask, x, other), or carry the "
    "mask along.",
    jax.errors.TracerArrayConversionError: "Use the functions of jax.numpy instead of those of numpy.",
}
_OTHERWISE = (
    "Instead of int() or float(), keep the array as it is; to choose between cases, use jax.lax.cond or "
    "jax.lax.switch. Pass sizes and switches as Python values, which are bound statically."
)


def _suspects(frame: Any, text: str) -> str:
    names = [n for n, v in frame.f_locals.items() if isinstance(v, Tracer) and n in text]
    return f"\nTraced names on that line: {', '.join(names)}." if names else ""


def unknown_address(address: str, infos: dict[str, SiteInfo], verb: str) -> AddressError:
    """The error for an address that a program lacks, with the nearest that it has."""
    known = [a for a, info in infos.items() if info.kind in SAMPLED]
    near = difflib.get_close_matches(address, known, n=1)
    hint = f" Did you mean {near[0]!r} ({infos[near[0]].source})?" if near else ""
    return AddressError(
        f"A value was given to {verb} the address {address!r}, which the program does not have.{hint}\n"
        f"Its addresses: {', '.join(map(repr, known)) or 'none'}."
    )
