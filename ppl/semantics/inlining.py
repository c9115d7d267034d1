"""Helpers under `jit` that hold sites, written out: an equation that only calls gives way to those that it calls.

Law: the code computes the same and has the same sites. Whoever cuts a program at its scores then finds them, and loops
around them, at the top. Branches, loops and lanes stay as they are; so do custom derivatives and checkpoints.
"""

from collections.abc import Callable
from typing import Any

from ppl.semantics import jaxpr as jp

CALLS = frozenset({"jit", "pjit", "closed_call", "core_call"})
Rename = dict[Any, Any]


def inlined(code: jp.Code, wanted: Callable[[Any], bool]) -> jp.Code:
    """A code in which calls that are wanted are replaced by the bodies called, at any depth.

    Args:
        code: An open jaxpr with the values of its constants.
        wanted: Says of an equation whether to write it out, where it is a call.

    Returns:
        The code; constants of the bodies are among its own.
    """
    names: Rename = {}
    constants: list[tuple[Any, Any]] = []
    equations = _written_out(code.jaxpr.eqns, names, wanted, constants)
    if len(equations) == len(code.jaxpr.eqns) and not names:
        return code
    jaxpr = code.jaxpr.replace(
        eqns=equations,
        outvars=[_named(atom, names) for atom in code.jaxpr.outvars],
        constvars=[*code.jaxpr.constvars, *(var for var, _ in constants)],
    )
    return jp.Code(jaxpr, (*code.consts, *(value for _, value in constants)))


def _written_out(
    equations: Any, names: Rename, wanted: Callable[[Any], bool], constants: list[tuple[Any, Any]]
) -> list[Any]:
    found = []
    for equation in equations:
        operands = [_named(atom, names) for atom in equation.invars]
        if equation.primitive.name not in CALLS or not wanted(equation):
            found.append(equation.replace(invars=operands) if operands != list(equation.invars) else equation)
            continue
        (body,) = jp.inner_codes(equation)
        constants.extend(zip(body.jaxpr.constvars, body.consts, strict=True))
        names.update(zip(body.jaxpr.invars, operands, strict=True))
        found += _written_out(body.jaxpr.eqns, names, wanted, constants)
        results = [_named(atom, names) for atom in body.jaxpr.outvars]
        names.update(zip(equation.outvars, results, strict=True))
    return found


def _named(atom: Any, names: Rename) -> Any:
    """What a variable of a body, or a call's result, is called outside; a body holds its sites once: once is enough."""
    return atom if jp.is_literal(atom) else names.get(atom, atom)
