"""What reaches what in an objective: parameters, continuous choices, and jumps; forward through the jaxpr.

The expected cost may be smooth where the cost of one draw jumps. A derivative taken inside the expectation misses that
jump wherever its place moves with a parameter:

    d/dp E[1(x > p)] = -density(p),   but   E[d/dp 1(x > p)] = 0

So an operation that jumps is wrong where what it looks at moves with the parameters (directly, or through a pathwise
choice) *and* varies with a continuous choice. The walk may name too much where a value is used for nothing; never for
operations that the parameters do not reach.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from ppl.distributions.drawn import law_of_draws
from ppl.semantics import jaxpr as jp
from ppl.semantics.dataflow import call_of, forward, outputs_that_move, settled
from ppl.semantics.site import Site
from ppl.vi.enumeration import Enumerate
from ppl.vi.expectation import Expectation, Nested
from ppl.vi.jumps import Jump, is_opaque, jump_of, jumping_outputs
from ppl.vi.pathwise import Noise
from ppl.vi.resolution import looked_at, measure_avals, resolved
from ppl.vi.strategy import Strategy


@runtime_checkable
class Pathwise(Protocol):
    """A strategy that differentiates the draw; `smooth` is the user's word that nothing behind it jumps."""

    @property
    def smooth(self) -> bool:
        """Whether the check leaves the choice alone."""
        ...


class Seen(NamedTuple):
    """A jump that is wrong, and the continuous choices that it looks at."""

    jump: Jump
    choices: frozenset[Site]


class Flow(NamedTuple):
    """What a value depends on.

    Attributes:
        moving: Whether its derivative in the parameters may be other than zero.
        choices: The continuous choices that it varies with.
        jumps: The wrong jumps that it depends on.
    """

    moving: bool = False
    choices: frozenset[Site] = frozenset()
    jumps: frozenset[Seen] = frozenset()


class Walk(NamedTuple):
    """One walk: the strategies by address, and the sites whose support moves under a strategy that cannot see it."""

    strategies: Mapping[str, Strategy]
    supports: dict[str, Site]


def joined(flows: Sequence[Flow]) -> Flow:
    """What depends on all of these."""
    choices: frozenset[Site] = frozenset().union(*(flow.choices for flow in flows))
    jumps: frozenset[Seen] = frozenset().union(*(flow.jumps for flow in flows))
    return Flow(any(flow.moving for flow in flows), choices, jumps)


def flows(jaxpr: Any, inputs: Sequence[Flow], walk: Walk) -> list[Flow]:
    """The flows of a jaxpr's outputs from those of its inputs (its constants depend on nothing)."""
    return forward(jaxpr, inputs, Flow(), lambda equation, operands: _equation(equation, operands, walk))


def _equation(equation: Any, operands: list[Flow], walk: Walk) -> list[Flow]:
    rule = _RULES.get(equation.primitive.name)
    if rule is not None:
        return rule(equation, operands, walk)
    total = joined(operands)
    jump = jump_of(equation) if total.moving and total.choices else None
    if jump is not None:
        broken = Flow(jumps=total.jumps | {Seen(jump, total.choices)})
        return [broken if jumps else total for jumps in jumping_outputs(equation)]
    called = None if is_opaque(equation) else call_of(equation)
    return [total] * len(equation.outvars) if called is None else flows(called, operands, walk)


# --- one rule a primitive --------------------------------------------------------------------------------------------


def _sample(equation: Any, operands: list[Flow], walk: Walk) -> list[Flow]:
    site, signature = equation.params["site"], equation.params["signature"]
    strategy, total = walk.strategies[site.address], joined(operands)
    if isinstance(strategy, Nested):
        return [_nested(equation, operands)]
    floating = all(jnp.issubdtype(aval.dtype, jnp.floating) for aval in signature.avals)
    pathwise, listed = isinstance(strategy, Pathwise), isinstance(strategy, Enumerate)
    by_density = floating and not (pathwise or listed or isinstance(strategy, Noise))
    if by_density and _support_moves(equation, [flow.moving for flow in operands]):
        walk.supports[site.address] = site
    varies = floating and not listed and not (isinstance(strategy, Pathwise) and strategy.smooth)
    out = Flow(pathwise and total.moving, frozenset({site} if varies else ()), total.jumps)
    return [out] * len(equation.outvars)


def _support_moves(equation: Any, moving: list[bool]) -> bool:
    """Whether a bound of the support of a choice's measure depends on operands that move."""
    signature = equation.params["signature"]

    def bounds(*leaves: Any) -> list[Any]:
        law = law_of_draws(jax.tree.unflatten(signature.measure_tree, leaves))
        return [jnp.asarray(leaf) for leaf in jax.tree.leaves(getattr(law, "support", None))]

    ours = moving[: signature.num_leaves]
    return any(ours) and any(outputs_that_move(jp.stage(bounds, *measure_avals(equation)).code.jaxpr, ours))


def _nested(equation: Any, operands: list[Flow]) -> Flow:
    """An expectation of its own: smooth outside, whatever is wrong inside."""

    def look(measure: Any) -> Any:
        assert isinstance(measure, Expectation)
        return measure.program.jaxpr

    jaxpr = looked_at(equation, look)
    (out,) = flows(jaxpr, operands, Walk(resolved(jaxpr), {}))
    return Flow(any(flow.moving for flow in operands), joined(operands).choices, out.jumps)


def _scan(equation: Any, operands: list[Flow], walk: Walk) -> list[Flow]:
    loop = jp.loop_of(equation)
    return settled(loop, operands, lambda inner: flows(loop.body.jaxpr, inner, walk), lambda *both: joined(both))


def _while(equation: Any, operands: list[Flow], walk: Walk) -> list[Flow]:
    params = equation.params
    counts = params["cond_nconsts"], params["body_nconsts"]
    test, body = jp.code_of(params["cond_jaxpr"]).jaxpr, jp.code_of(params["body_jaxpr"]).jaxpr
    first, consts = operands[: counts[0]], operands[counts[0] : sum(counts)]
    state = operands[sum(counts) :]
    while True:
        asked = joined(flows(test, [*first, *state], walk))
        stepped = flows(body, [*consts, *state], walk)
        after = [joined([old, new, asked]) for old, new in zip(state, stepped, strict=True)]
        if after == state:
            return state
        state = after


def _cond(equation: Any, operands: list[Flow], walk: Walk) -> list[Flow]:
    index, *rest = operands
    branches = [flows(code.jaxpr, rest, walk) for code in jp.inner_codes(equation)]
    return [joined([index, *column]) for column in zip(*branches, strict=True)]


_RULES = {"sample": _sample, "scan": _scan, "while": _while, "cond": _cond}
"""What depends on what, by primitive; into any other equation with a body the walk goes, save JAX's own functions."""
