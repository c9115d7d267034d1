"""`ppl.lookahead`: weights that look ahead while a loop is under way, and cancel at its end.

    step t is weighed by exp(psi_t - psi_(t-1)),  psi_0 = psi_T = 0 before the first step and after the last

Law: the measure is the program's (the factors telescope). A filter on it resamples in proportion to weight times
exp(psi_t): the auxiliary particle filter of Pitt and Shephard, "Filtering via simulation", JASA 94 (1999), in the form
of Johansen and Doucet, "A note on auxiliary particle filters", Statistics and Probability Letters 78 (2008).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl.errors import MeasureError
from ppl.semantics import jaxpr as jp
from ppl.semantics.extended import Records
from ppl.semantics.interpreter import split
from ppl.semantics.language import deterministic, factor
from ppl.semantics.measures import addresses
from ppl.semantics.program import Program
from ppl.semantics.site import WEIGHING
from ppl.semantics.table import site_table
from ppl.semantics.walks import Walk, interpreted

ADDRESS = "lookahead"
"""Where the factor stands in the loop; the potential itself is recorded under `lookahead/potential`."""

Potential = Callable[[dict[str, Any], Any], Any]


def lookahead(program: Program, potential: Potential) -> Program:
    """The same measure, with a potential at the end of each step of the program's loop that the next step takes back.

    Args:
        program: A program with one loop that observes or weighs.
        potential: A function `(choices, step) -> log potential` (nats) of the choices of a step (by address) and of the
            step's place in the loop's inputs, 0 to T - 1. Data go in as `jax.tree_util.Partial(function, ys=ys)`.
            It is not asked of the last step. Where it is minus infinity a particle dies, so it must be finite wherever
            the future has mass. The best one is the log density of all later observations given the choices.

    Returns:
        A program over the same addresses, with the same value; it records `lookahead/potential` at each step.

    Raises:
        MeasureError: the program has no loop that weighs, or several.

    Examples:
        >>> import jax, jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def walk(ys):
        ...     def step(x, y):
        ...         x = ppl.sample("x", dist.Normal(x, 1.0))
        ...         ppl.sample("y", dist.Normal(x, 1.0), obs=y)
        ...         return x, None
        ...     return jax.lax.scan(step, jnp.float32(0.0), ys)[0]
        >>> def next_one(choices, t, ys):
        ...     return -0.25 * (ys[jnp.minimum(t + 1, len(ys) - 1)] - choices["x"]) ** 2
        >>> program, ys = walk(jnp.array([1.0, 5.0])), jnp.array([1.0, 5.0])
        >>> ahead = ppl.lookahead(program, jax.tree_util.Partial(next_one, ys=ys))
        >>> choices = {"x": jnp.array([0.5, 4.0])}
        >>> bool(jnp.isclose(ahead.log_density(choices), program.log_density(choices), rtol=1e-5))
        True
    """
    loops = [equation for equation in _walked(program) if _weighs(equation)]
    if len(loops) != 1:
        raise MeasureError(
            f"The program {program.name!r} has {len(loops)} loops that observe or weigh.\nExpected: one jax.lax.scan "
            "with observations or factors inside.\nFix: write the time steps as one loop."
        )
    return Program.of(_looking_ahead, (program, potential))


def _walked(program: Program) -> list[Any]:
    """The equations with sites, looked for through `jit` and its like."""
    found: list[Any] = []

    def walk(code: jp.Code) -> None:
        for equation in code.jaxpr.eqns:
            if equation.primitive.name == "scan" or equation.primitive in jp.SITES:
                found.append(equation)
            elif jp.has_sites(equation) and equation.primitive.name not in ("cond", "while", "lanes"):
                walk(jp.inner_codes(equation)[0])

    walk(program.staged.code)
    return found


def _weighs(equation: Any) -> bool:
    """Whether an equation is a loop with observations or factors inside."""
    if equation.primitive.name != "scan" or not jp.has_sites(equation):
        return False
    table = site_table(jp.loop_of(equation).body.jaxpr)
    return any(entry.site.kind in WEIGHING for entry in table.values())


def _looking_ahead(program: Program, potential: Potential) -> Any:
    walk = Walk(program.staged.code, program.dynamic)
    while walk.current is not None:
        equation, operands = walk.current
        plain = not _weighs(equation)
        walk.give(
            interpreted(equation, operands, Records(), {}).outs if plain else _scan(equation, operands, potential)
        )
    return jax.tree.unflatten(program.staged.out_tree, walk.outs)


def _scan(equation: Any, operands: list[Any], potential: Potential) -> list[Any]:
    """The loop with the potential of the step before in its state."""
    loop = jp.loop_of(equation)
    consts, init, xs = split(operands, loop.num_consts, loop.num_carry)
    last_time = 0 if loop.reverse else loop.length - 1

    def body(state: Any, inputs: Any) -> Any:
        (carry, before), (time, x) = state, inputs
        walk, made = Walk(loop.body, (*consts, *carry, *x)), {}
        while walk.current is not None:
            result = interpreted(*walk.current, Records(), {})
            made.update(result.writes)
            walk.give(result.outs)
        after = jnp.where(time == last_time, 0.0, _value(potential, made, loop, time, before))
        deterministic(f"{ADDRESS}/potential", after)
        factor(ADDRESS, step_weight(after, before))
        return (walk.outs[: loop.num_carry], after), walk.outs[loop.num_carry :]

    start = list(init), jnp.zeros((), jnp.result_type(float))
    times = jnp.arange(loop.length, dtype=jnp.int32)
    (last, _), ys = lax.scan(
        body, start, (times, list(xs)), length=loop.length, reverse=loop.reverse, unroll=loop.unroll
    )
    return [*last, *ys]


def step_weight(after: Any, before: Any) -> Any:
    """What a step is weighed by: the potential after it, less the one before; a dead particle stays dead."""
    return after - jnp.where(jnp.isfinite(before), before, 0.0)


def _value(potential: Potential, made: dict[str, Any], loop: jp.Loop, time: Any, like: Any) -> Any:
    table, choices = site_table(loop.body.jaxpr), {}
    for address, value in made.items():
        names = addresses(address, table[address].signature.value_tree)
        choices.update(zip(names, jax.tree.leaves(value), strict=True))
    found = jnp.asarray(potential(choices, time), like.dtype)
    if found.shape:
        raise MeasureError(
            f"The lookahead returned an array of shape {found.shape} for one step.\nExpected: one number, the log "
            "potential of the step's choices.\nFix: sum over the axes."
        )
    return found
