r"""Whole paths given all observations, drawn backwards through a filter's stored particles.

    i_T ~ W_T,    i_t ~ W_t(i) p(x_{t+1}, y_{t+1} | x_t(i)),

with the density that of the loop's body, scored at the later choices. Godsill, Doucet, West, *Monte Carlo smoothing for
nonlinear time series* (JASA 2004). Consistent as the number of particles N grows; it costs N densities for each step of
each path. Unlike paths along lines of ancestors, the draws do not share their beginnings.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl.errors import MeasureError
from ppl.inference.history import in_order_of_run
from ppl.inference.method import positive
from ppl.inference.posterior import Posterior
from ppl.semantics import choices as ch
from ppl.semantics import jaxpr as jp
from ppl.semantics.handlers import Density
from ppl.semantics.interpreter import run, run_equations
from ppl.semantics.keys import as_key
from ppl.semantics.markov import carry_is_settled
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Position
from ppl.semantics.stages import Environment, Loop, Plan, plan_of, shared_values


def backward_simulation(posterior: Posterior, draws: int, key: Any) -> Posterior:
    """Draws of all the program's choices given all its observations, from a filter's history.

    Args:
        posterior: What `ppl.SMC(n, store="filter")` or `ppl.ParticleFilter(n)` returned for a program with one loop
            whose carried state is settled by its choices (a state-space model), and no choices behind it.
        draws: How many paths.
        key: An int or a JAX key.

    Returns:
        A posterior of equally weighted draws, one chain.

    Raises:
        MeasureError: the program is of another form, or the history was not stored.

    Examples:
        >>> import jax, jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def walk(ys):
        ...     def step(x, y):
        ...         x = ppl.sample("x", dist.Normal(x, 1.0))
        ...         ppl.sample("y", dist.Normal(x, 1.0), obs=y)
        ...         return x, None
        ...     jax.lax.scan(step, jnp.float32(0.0), ys)
        >>> filtered = ppl.infer(walk(jnp.array([1.0, 2.0])), ppl.SMC(1_000, store="filter"), key=0)
        >>> smoothed = backward_simulation(filtered, 100, key=1)
        >>> smoothed.draws["x"].shape
        (1, 100, 2)
    """
    positive("draws", draws)
    program, past = posterior.program, posterior.history
    _check(program, past)
    staged, plan = program.staged, plan_of(program)
    (number,) = [i for i, stage in enumerate(plan.stages) if isinstance(stage, Loop)]
    first = plan.starts[number]
    rows = jnp.asarray(past.log_weights[first : first + plan.stages[number].length])
    before = rows[0] if number == 0 else jnp.asarray(past.log_weights[first - 1])
    latent = ch.latent_infos(staged)
    made = ch.nest({a: jnp.asarray(x) for a, x in past.filtered.items() if a in latent}, staged)
    start = ch.nest({a: jnp.asarray(x) for a, x in past.first.items()}, staged)
    found = _simulated(program, as_key(key), (rows, made), (before, start), draws)
    return Posterior(
        draws={a: x[None] for a, x in ch.flatten(jax.device_get(found), staged, ("latent",)).items()},
        log_evidence=posterior.log_evidence,
        program=program,
        method=f"{posterior.method}, backward simulation",
    )


@partial(jax.jit, static_argnums=4)
def _simulated(program: Program, key: Any, steps: Any, start: Any, draws: int) -> Choices:
    """All paths, each drawn by itself."""
    plan, shared = plan_of(program), shared_values(program)
    (number,) = [i for i, stage in enumerate(plan.stages) if isinstance(stage, Loop)]
    stage: Any = plan.stages[number]
    log_weights, made = steps[0], in_order_of_run(stage, steps[1])
    operands = _operands(plan, number, shared, start[1], log_weights.shape[1])

    def carry_after(choices: Choices, time: Any) -> Any:
        """The states of all particles after a step."""
        return jax.vmap(lambda own, given: _step(stage, own, given, time)[1])(operands, choices)

    def ahead(carry: Any, choices: Choices, time: Any) -> Any:
        """Log density (nats) of one step's choices and observations from each particle's state."""
        moved = {**operands, **carry}
        return jax.vmap(lambda own: _step(stage, own, choices, time)[0])(moved)

    def path(key: Any) -> Choices:
        keys = jax.random.split(key, stage.length + 1)
        last = jax.random.categorical(keys[-1], log_weights[-1])
        end = jax.tree.map(lambda x: x[-1, last], made)

        def back(later: Choices, inputs: Any) -> Any:
            row, choices, index, key = inputs
            log_weight = row + ahead(carry_after(choices, stage.time(index)), later, stage.time(index + 1))
            place = jax.random.categorical(key, log_weight)
            now = jax.tree.map(lambda x: x[place], choices)
            return now, now

        index = jnp.arange(stage.length - 1)
        inputs = log_weights[:-1], jax.tree.map(lambda x: x[:-1], made), index, keys[: stage.length - 1]
        begin, rest = lax.scan(back, end, inputs, reverse=True)
        whole = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), rest, end)
        carry = {k: operands[k] for k in _carried(stage)}
        place = jax.random.categorical(keys[-2], start[0] + ahead(carry, begin, stage.time(0)))
        return {**jax.tree.map(lambda x: x[place], start[1]), **in_order_of_run(stage, whole)}

    return jax.lax.map(path, jax.random.split(key, draws), batch_size=min(draws, 64))


def _carried(stage: Loop) -> list[int]:
    loop = stage.loop
    return list(range(loop.num_consts, loop.num_consts + loop.num_carry))


def _operands(plan: Plan, number: int, shared: Environment, start: Choices, n: int) -> dict[int, Any]:
    """What the loop's body reads before its first step, by place, for each particle that enters it."""
    before: Any = plan.stages[:number]
    equations = [equation for stage in before for equation in stage.equations]
    stage: Any = plan.stages[number]

    def one(choices: Choices) -> dict[int, Any]:
        environment = dict(shared)
        run_equations(equations, environment, Density(), choices)
        values = [jnp.asarray(jp.read(environment, atom)) for atom in stage.equation.invars]
        return dict(enumerate(values))

    if start:
        return jax.vmap(one)(start)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), one({}))


def _step(stage: Loop, operands: dict[int, Any], choices: Choices, time: Any) -> tuple[Any, dict[int, Any]]:
    """The log density (nats) of one step, and the carry after it, by place."""
    loop = stage.loop
    last = loop.num_consts + loop.num_carry
    arguments = [x[time] if place >= last else x for place, x in operands.items()]
    result = run(loop.body, arguments, Density(), choices, Position(loop=(time,)))
    return result.total, dict(zip(_carried(stage), result.outs, strict=False))


def _check(program: Program, past: Any) -> None:
    if getattr(past, "log_weights", None) is None or np.ndim(past.log_weights) != 2:
        raise _refusal(program, "its particles at every step were not stored", 'one run of ppl.SMC(n, store="filter")')
    plan = plan_of(program)
    if len(past.log_weights) != plan.length:
        raise _refusal(program, "it was filtered in another form", "one that is cut where it was when filtered")
    loops = [i for i, stage in enumerate(plan.stages) if isinstance(stage, Loop)]
    if len(loops) != 1:
        raise _refusal(program, f"it has {len(loops)} loops with observations", "exactly one")
    stage: Any = plan.stages[loops[0]]
    loop = stage.loop
    behind = {a for later in plan.stages[loops[0] + 1 :] for a in later.addresses}
    if any(program.staged.table[a].site.kind != "deterministic" for a in behind):
        raise _refusal(program, f"it has the sites {sorted(behind)} behind its loop", "none")
    last = loop.num_consts + loop.num_carry
    if any(stage.moving[: loop.num_consts]) or any(stage.moving[last:]):
        raise _refusal(
            program,
            "its loop reads choices made before the loop at every step (unknown parameters)",
            "a loop that knows of them through its first state alone; give the parameters, or use particle Gibbs",
        )
    if not carry_is_settled(loop, stage.addresses):
        raise _refusal(
            program,
            "its loop's state is more than its last choices",
            "a carried state that the choices of the step settle (a counter can be an input of the scan)",
        )


def _refusal(program: Program, got: str, expected: str) -> MeasureError:
    return MeasureError(f"Backward simulation was asked of {program.name!r}, but {got}.\nExpected: {expected}.")
