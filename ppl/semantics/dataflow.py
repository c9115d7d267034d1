"""Which outputs of a jaxpr may depend on which inputs, seen through loops, branches and calls."""

from collections.abc import Sequence
from typing import Any

from ppl.semantics import jaxpr as jp

CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint"}
)


def outputs_that_move(jaxpr: Any, moving: Sequence[bool] | None = None) -> list[bool]:
    """For each output of an open jaxpr, whether it may depend on an input that moves.

    Args:
        jaxpr: A jaxpr without sites.
        moving: For each of its inputs, whether it moves; all do by default. Its constants do not.
    """
    flags = [True] * len(jaxpr.invars) if moving is None else moving
    moves = {var for var, flag in zip(jaxpr.invars, flags, strict=True) if flag}
    for equation in jaxpr.eqns:
        flags = [not jp.is_literal(atom) and atom in moves for atom in equation.invars]
        after = _equation(equation, flags) if any(flags) else [False] * len(equation.outvars)
        moves.update(var for var, flag in zip(equation.outvars, after, strict=True) if flag)
    return [not jp.is_literal(atom) and atom in moves for atom in jaxpr.outvars]


def _equation(equation: Any, flags: list[bool]) -> list[bool]:
    name = equation.primitive.name
    codes = jp.inner_codes(equation)
    if name == "scan":
        return _scan(jp.loop_of(equation), flags)
    if name == "cond" and not flags[0]:
        branches = [outputs_that_move(code.jaxpr, flags[1:]) for code in codes]
        return [any(column) for column in zip(*branches, strict=True)]
    if name in CALLS and len(codes[0].jaxpr.invars) == len(flags):
        return outputs_that_move(codes[0].jaxpr, flags)
    return [True] * len(equation.outvars)


def _scan(loop: Any, flags: list[bool]) -> list[bool]:
    """A carried value moves where any step makes it move."""
    first, last = loop.num_consts, loop.num_consts + loop.num_carry
    while True:
        after = outputs_that_move(loop.body.jaxpr, flags)
        carried = [old or new for old, new in zip(flags[first:last], after, strict=False)]
        if carried == flags[first:last]:
            return [*carried, *after[loop.num_carry :]]
        flags = [*flags[:first], *carried, *flags[last:]]
