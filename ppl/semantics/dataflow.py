"""Forward through a jaxpr with something known of every value; which outputs may depend on which inputs, above all."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ppl.semantics import jaxpr as jp

CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint"}
)

Known = TypeVar("Known")


def forward(
    jaxpr: Any, inputs: Sequence[Known], nothing: Known, rule: Callable[[Any, list[Known]], Sequence[Known]]
) -> list[Known]:
    """What is known of a jaxpr's outputs, from what is known of its inputs.

    Args:
        jaxpr: An open jaxpr.
        inputs: What is known of each input.
        nothing: What is known of constants and literals.
        rule: From an equation and what is known of its operands to what is known of its results.
    """
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def look(atom: Any) -> Known:
        return nothing if jp.is_literal(atom) else known.get(atom, nothing)

    for equation in jaxpr.eqns:
        results = rule(equation, [look(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, results, strict=True))
    return [look(atom) for atom in jaxpr.outvars]


def settled(
    loop: jp.Loop,
    operands: list[Known],
    step: Callable[[list[Known]], list[Known]],
    joined: Callable[[Known, Known], Known],
) -> list[Known]:
    """What is known of a `scan`'s results: what a step makes of the carried values is joined to them until they stay.

    Args:
        loop: The parts of the equation.
        operands: What is known of its operands.
        step: From what is known of the body's inputs to what is known of its outputs.
        joined: What is known of a value that is either of two.
    """
    first, last = loop.num_consts, loop.num_consts + loop.num_carry
    while True:
        after = step(operands)
        carried = [joined(old, new) for old, new in zip(operands[first:last], after, strict=False)]
        if carried == operands[first:last]:
            return [*carried, *after[loop.num_carry :]]
        operands = [*operands[:first], *carried, *operands[last:]]


def call_of(equation: Any) -> Any | None:
    """The jaxpr that an equation runs on its own operands, for its own results; None where there is no such one."""
    codes = jp.inner_codes(equation)
    if not codes:
        return None
    jaxpr = codes[0].jaxpr
    same = len(jaxpr.invars) == len(equation.invars) and len(jaxpr.outvars) == len(equation.outvars)
    return jaxpr if same else None


def outputs_that_move(jaxpr: Any, moving: Sequence[bool] | None = None) -> list[bool]:
    """For each output of an open jaxpr, whether it may depend on an input that moves.

    Args:
        jaxpr: A jaxpr without sites.
        moving: For each of its inputs, whether it moves; all do by default. Its constants do not.
    """
    flags = [True] * len(jaxpr.invars) if moving is None else moving
    return forward(jaxpr, flags, False, _equation)  # noqa: FBT003


def _equation(equation: Any, flags: list[bool]) -> list[bool]:
    name = equation.primitive.name
    if not any(flags):
        return [False] * len(equation.outvars)
    codes = jp.inner_codes(equation)
    if name == "scan":
        loop = jp.loop_of(equation)
        return settled(loop, flags, lambda flags: outputs_that_move(loop.body.jaxpr, flags), lambda a, b: a or b)
    if name == "cond" and not flags[0]:
        branches = [outputs_that_move(code.jaxpr, flags[1:]) for code in codes]
        return [any(column) for column in zip(*branches, strict=True)]
    if name in CALLS and len(codes[0].jaxpr.invars) == len(flags):
        return outputs_that_move(codes[0].jaxpr, flags)
    return [True] * len(equation.outvars)
