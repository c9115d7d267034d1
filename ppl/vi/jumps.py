"""Which equations of a jaxpr are jumps that the user wrote: discontinuous functions of floats, with their lines.

A comparison inside a library function is none, unless that function jumps itself (`jnp.argsort`, `%`): `jax.nn.elu`
compares, and is continuous. Which it is, the traceback of the equation tells: between JAX's plumbing and the nearest
line of the user's source there is no other function of a library, or one of `JUMPING_FUNCTIONS`.
"""

import linecache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppl.semantics import jaxpr as jp
from ppl.semantics.site import Source, is_library_file

_JAX = str(Path(jax.__file__).parent)
_PLUMBING = frozenset(
    ("source_info_util", "partial_eval", "core", "pjit", "traceback_util", "array_methods", "batching", "linear_util")
    + ("api", "api_util", "custom_derivatives", "lax", "ad", "ad_checkpoint", "conditionals", "loops", "profiler")
    + ("jaxpr", "interpreter", "lanes", "util")
)
"""Files through which a call passes on its way to a primitive, whatever the function is."""

JUMPING_FUNCTIONS = frozenset(
    ("argmax", "argmin", "argsort", "argpartition", "lexsort", "sort_key_val", "top_k", "searchsorted", "digitize")
    + ("array", "asarray", "astype", "_ScalarMeta.__call__", "floor_divide", "mod", "remainder", "fmod", "divmod")
    + ("floor", "ceil", "trunc", "fix", "rint", "round", "around", "sign", "heaviside", "modf", "histogram", "bincount")
    + ("greater", "greater_equal", "less", "less_equal", "nanargmax", "nanargmin", "signbit")
)
"""Functions of JAX that are discontinuous themselves."""

_NAMES = {
    "gt": "comparison",
    "lt": "comparison",
    "ge": "comparison",
    "le": "comparison",
    "convert_element_type": "cast to an integer or boolean",
    "rem": "remainder",
}


class Jump(NamedTuple):
    """A discontinuous operation of the user's: what it is, and where."""

    what: str
    source: Source

    @property
    def text(self) -> str:
        """The user's line."""
        return linecache.getline(self.source.file, self.source.line).strip()


def jump_of(equation: Any) -> Jump | None:
    """The jump that an equation is, or None: it is continuous, or a library's own business.

    Args:
        equation: An equation of a jaxpr; a call counts where its function jumps.
    """
    name = equation.primitive.name
    if name not in jp.JUMPING or not any(_is_float(atom) for atom in equation.invars):
        return None
    if name == "convert_element_type" and _is_float(equation.outvars[0]):
        return None
    called = equation.params.get("name") if name in ("jit", "pjit") else None
    if called is not None and not (is_opaque(equation) and called in JUMPING_FUNCTIONS):
        return None
    source = _line_of_user(equation)
    return None if source is None else Jump(called or _NAMES.get(name, name), source)


def is_opaque(equation: Any) -> bool:
    """Whether an equation is a call of one of JAX's own functions, whose body is its own business."""
    if equation.primitive.name not in ("jit", "pjit"):
        return False
    file = jp.inner_codes(equation)[0].jaxpr.debug_info.func_filename
    return file is not None and file.startswith(_JAX)


def jumping_outputs(equation: Any) -> list[bool]:
    """Which outputs of a jump are discontinuous: of sorted arrays only what is carried along, and the indices."""
    if equation.primitive.name == "sort":
        keys = equation.params["num_keys"]
        return [index >= keys for index in range(len(equation.outvars))]
    if equation.primitive.name == "top_k":
        return [not _is_float(var) for var in equation.outvars]
    return [True] * len(equation.outvars)


def _line_of_user(equation: Any) -> Source | None:
    """The user's line that a primitive comes from, where no library function that is continuous stands between."""
    traceback = equation.source_info.traceback
    called = None
    for frame in () if traceback is None else traceback.frames:
        if not is_library_file(frame.file_name):
            known = called is None or called in JUMPING_FUNCTIONS
            return Source(frame.file_name, frame.line_num) if known else None
        if Path(frame.file_name).stem not in _PLUMBING:
            called = frame.function_name
    return None


def _is_float(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.floating)
