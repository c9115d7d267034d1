"""From a program to the surrogate of its expected value, by continuation passing over the jaxpr.

    surrogate(code, args, run) = an estimate of E[code(args)] whose derivative is unbiased too

Equations run as JAX runs them. A stretch whose choices are all direct is left to the one interpreter (`Draws`); at any
other choice the rest of the program becomes a function, and the choice's strategy decides where to evaluate it.
Control flow that holds such a choice is opened: branches take the rest with them, loops are unrolled (see
`UNROLLED`), and lanes are cut at the choice, which becomes one choice with a batch axis.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl.errors import StrategyError
from ppl.semantics import jaxpr as jp
from ppl.semantics.influence import held
from ppl.semantics.interpreter import run_equations, sample_site, split
from ppl.semantics.protocol import TOP, Position
from ppl.vi.draws import Draws, opens
from ppl.vi.lanes import cut_lanes
from ppl.vi.strategy import Node, Run, added, closed

UNROLLED = 16
"""The most steps of a loop that are unrolled for the sake of a choice inside that is not direct."""

Tail = Callable[[list[Any], Run], Any]
"""What follows a code: from its outputs to the cost."""


def surrogate(code: jp.Code, args: Sequence[Any], run: Run, where: Position = TOP) -> Any:
    """The surrogate of the expected value of a code whose single output is the cost.

    Args:
        code: The code of an objective.
        args: Its arguments.
        run: Key, strategies, and what the evaluation is for.
        where: Lanes around the whole of it, each of which is to have draws of its own.

    Returns:
        A scalar: its value is an unbiased estimate of the expected cost, and `jax.grad` of it of the gradient.
    """
    return walked(code, args, run, where, lambda outs, end: closed(outs[0], end))


def walked(code: jp.Code, args: Sequence[Any], run: Run, where: Position, tail: Tail) -> Any:
    """Run a code, then its tail; returns the cost."""
    jaxpr = code.jaxpr
    environment = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*code.consts, *args), strict=True))

    def onward(index: int, environment: dict[Any, Any], run: Run) -> Any:
        """The cost from one equation on."""
        stop = next((i for i in range(index, len(jaxpr.eqns)) if opens(jaxpr.eqns[i], run)), len(jaxpr.eqns))
        result = run_equations(jaxpr.eqns[index:stop], environment, Draws(run), {}, where)
        run = run._replace(totals=added(run.totals, result.total))
        if stop == len(jaxpr.eqns):
            return tail([jp.read(environment, atom) for atom in jaxpr.outvars], run)
        equation = jaxpr.eqns[stop]
        operands = [jp.read(environment, atom) for atom in equation.invars]

        def rest(outs: list[Any], run: Run) -> Any:
            return onward(stop + 1, {**environment, **dict(zip(equation.outvars, outs, strict=True))}, run)

        return RULES.get(equation.primitive.name, _inlined)(equation, operands, run, where, rest)

    return onward(0, environment, run)


# --- one rule a primitive --------------------------------------------------------------------------------------------


def _sample(equation: Any, operands: Sequence[Any], run: Run, where: Position, rest: Tail) -> Any:
    node = Node(sample_site(equation, operands), where)
    strategy = run.strategies[node.address]
    return strategy.expect(node, run, lambda value, after: rest(jax.tree.leaves(value), after))


def _inlined(equation: Any, operands: Sequence[Any], run: Run, where: Position, rest: Tail) -> Any:
    return walked(jp.inner_codes(equation)[0], operands, run, where, rest)


def _cond(equation: Any, operands: Sequence[Any], run: Run, where: Position, rest: Tail) -> Any:
    """Each branch goes on to the end by itself."""
    index, *args = operands
    codes = [jp.code_of(branch) for branch in equation.params["branches"]]
    return lax.switch(index, [lambda *xs, code=code: walked(code, xs, run, where, rest) for code in codes], *args)


def _scan(equation: Any, operands: Sequence[Any], run: Run, where: Position, rest: Tail) -> Any:
    """The steps one after the other, each with all later ones in its rest."""
    loop = jp.loop_of(equation)
    if loop.length > UNROLLED:
        raise _too_long(equation, loop.length, run)
    consts, init, xs = split(operands, loop.num_consts, loop.num_carry)
    order = range(loop.length)[:: -1 if loop.reverse else 1]

    def step(done: int, carry: list[Any], ys: list[list[Any]], run: Run) -> Any:
        if done == loop.length:
            return rest([*carry, *_stacked(ys[:: -1 if loop.reverse else 1], equation, loop.num_carry)], run)
        index = order[done]
        args = (*consts, *carry, *(x[index] for x in xs))
        inner = where._replace(loop=(*where.loop, jnp.int32(index)))

        def then(outs: list[Any], run: Run) -> Any:
            return step(done + 1, outs[: loop.num_carry], [*ys, outs[loop.num_carry :]], run)

        return walked(loop.body, args, run, inner, then)

    return step(0, list(init), [], run)


def _stacked(rows: list[list[Any]], equation: Any, num_carry: int) -> list[Any]:
    if not rows:
        return [jnp.zeros(var.aval.shape, var.aval.dtype) for var in equation.outvars[num_carry:]]
    return [jnp.stack(column) for column in zip(*rows, strict=True)]


def _too_long(equation: Any, length: int, run: Run) -> StrategyError:
    names = _names(equation, run)
    return StrategyError(
        f"The loop of {length} steps holds {names}, whose strategy evaluates the rest of the program at several "
        "values.\nExpected: for that a loop is unrolled, at a cost that grows with a power of its length, so at most "
        f"{UNROLLED} steps.\n"
        "Fix: vi.score() or vi.reparam() there (both stay in the loop), or sum the choice out with "
        "program.marginal(..., method=ppl.Exact())."
    )


def _names(equation: Any, run: Run) -> str:
    found = [a for a in sorted(held(equation)) if a in run.strategies and not run.strategies[a].direct]
    return ", ".join(f"the choice {address!r} ({run.strategies[address]})" for address in found)


def _while(equation: Any, operands: Sequence[Any], run: Run, where: Position, rest: Tail) -> Any:
    del operands, where, rest
    raise StrategyError(
        f"A while_loop holds {_names(equation, run)}, whose strategy needs the rest of the program.\n"
        "Expected: a loop with a fixed number of steps, or vi.reparam() there."
    )


def _lanes(equation: Any, operands: Sequence[Any], run: Run, where: Position, rest: Tail) -> Any:
    return cut_lanes(equation, operands, run, where, rest)


RULES: dict[str, Callable[..., Any]] = {
    "sample": _sample,
    "cond": _cond,
    "scan": _scan,
    "while": _while,
    "lanes": _lanes,
}
"""What becomes of an equation that holds a choice which needs the rest; any other one is walked into."""
