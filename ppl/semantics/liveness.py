"""Which values of a code are needed: those that reach a site, or an output that is asked for.

Used by exact summation, where a value that nobody needs must not keep a summed variable alive.
"""

from collections.abc import Sequence
from typing import Any

from ppl.semantics import jaxpr as jp


def needed_inputs(code: jp.Code, outs: Sequence[bool]) -> list[bool]:
    """For each input of a code (without constants), whether a site or a needed output depends on it."""
    needed = needed_variables(code, outs)
    return [var in needed for var in code.jaxpr.invars]


def needed_variables(code: jp.Code, outs: Sequence[bool]) -> set[Any]:
    """All variables of a code that a site or a needed output depends on."""
    jaxpr = code.jaxpr
    needed = {atom for atom, wanted in zip(jaxpr.outvars, outs, strict=True) if wanted and not jp.is_literal(atom)}
    for equation in reversed(jaxpr.eqns):
        wanted = [var in needed for var in equation.outvars]
        for atom, use in zip(equation.invars, equation_inputs(equation, wanted), strict=True):
            if use and not jp.is_literal(atom):
                needed.add(atom)
    return needed


def equation_inputs(equation: Any, outs: Sequence[bool]) -> list[bool]:
    """For each operand of an equation, whether it is needed."""
    count = len(equation.invars)
    if not jp.has_sites(equation):
        return [any(outs)] * count
    name = equation.primitive.name
    if equation.primitive is jp.deterministic_p:
        return [False] * count
    if equation.primitive in jp.SITES:
        return [True] * count
    if name == "scan":
        return _scan_inputs(equation, outs)
    if name == "cond":
        branches = [needed_inputs(code, outs) for code in jp.inner_codes(equation)]
        return [True, *(any(uses) for uses in zip(*branches, strict=True))]
    if equation.primitive is jp.lanes_p:
        body = equation.params["body"]
        needed = needed_variables(body, outs)
        return [var in needed for var in (*body.jaxpr.constvars, *body.jaxpr.invars)]
    if name == "while":
        return [True] * count
    return needed_inputs(jp.inner_codes(equation)[0], outs)


def scan_carry(equation: Any, outs: Sequence[bool]) -> list[bool]:
    """For each carried value of a scan, whether any step needs it."""
    loop = jp.loop_of(equation)
    carry, ys = list(outs[: loop.num_carry]), list(outs[loop.num_carry :])
    while True:
        inputs = needed_inputs(loop.body, [*carry, *ys])
        inner = inputs[loop.num_consts : loop.num_consts + loop.num_carry]
        grown = [old or new for old, new in zip(carry, inner, strict=True)]
        if grown == carry:
            return carry
        carry = grown


def _scan_inputs(equation: Any, outs: Sequence[bool]) -> list[bool]:
    loop = jp.loop_of(equation)
    carry = scan_carry(equation, outs)
    inputs = needed_inputs(loop.body, [*carry, *outs[loop.num_carry :]])
    inputs[loop.num_consts : loop.num_consts + loop.num_carry] = carry
    return inputs
