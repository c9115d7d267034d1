"""Which loops can be scored all at once: those whose carried values are settled by the given choices.

When every choice in a `scan` has a value, the state that a step hands on is often known without running the steps
before (in a state-space model it is the choice itself). Then the steps are independent given those states and can be
scored side by side, as one writes a state-space density by hand.
"""

import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from ppl.semantics import jaxpr as jp

MEMORY_LIMIT = 2**24
"""The most array elements of carried states that are kept at once for scoring steps side by side."""


def steps_are_independent(loop: jp.Loop, given: Collection[str]) -> bool:
    """Whether the steps can be scored side by side: no carried value depends on the step before, given the choices.

    Loops with branches inside are left alone: side by side, both sides of a branch are evaluated, and the gradient
    of the side not taken may be NaN.
    """
    jaxpr = loop.body.jaxpr
    if loop.length < 2 or _has_branches(jaxpr):
        return False
    carry = jaxpr.invars[loop.num_consts : loop.num_consts + loop.num_carry]
    if loop.length * sum(math.prod(var.aval.shape) for var in carry) > MEMORY_LIMIT:
        return False
    return carry_is_settled(loop, given)


def carry_is_settled(loop: jp.Loop, given: Collection[str]) -> bool:
    """Whether no carried value of a step depends on the step before, given the choices."""
    jaxpr = loop.body.jaxpr
    tainted = set(jaxpr.invars[loop.num_consts : loop.num_consts + loop.num_carry])
    for equation in jaxpr.eqns:
        if _reads_a_given_choice(equation, given):
            continue
        if any(not jp.is_literal(atom) and atom in tainted for atom in equation.invars):
            tainted.update(equation.outvars)
    outs = jaxpr.outvars[: loop.num_carry]
    return all(jp.is_literal(atom) or atom not in tainted for atom in outs)


def _reads_a_given_choice(equation: Any, given: Collection[str]) -> bool:
    """A latent site whose value is given: its output does not depend on its parameters."""
    if equation.primitive is not jp.sample_p:
        return False
    return len(equation.invars) == equation.params["signature"].num_leaves and equation.params["site"].address in given


def _has_branches(jaxpr: Any) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("cond", "while"):
            return True
        if any(_has_branches(code.jaxpr) for code in jp.inner_codes(equation)):
            return True
    return False


def shifted(init: Any, after: Any, *, reverse: bool) -> Any:
    """The state before each step, from the first state and the states after each step (in the order of the inputs)."""

    def shift(first: Any, states: Any) -> Any:
        head = jnp.asarray(first, states.dtype)[None]
        parts = [states[1:], head] if reverse else [head, states[:-1]]
        return jnp.concatenate(parts)

    return jax.tree.map(shift, init, after)
