"""Where a program is cut: its stages end at observations and factors, and a `scan` that scores inside is one loop.

A stage is run once a particle. What does not depend on a random choice is the same for all particles: it is computed
once, before the first stage (`shared_values`), and is neither copied nor resampled. Between two stages a particle is
the tuple of random values that later stages read.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppl.errors import UnboundedError
from ppl.semantics import jaxpr as jp
from ppl.semantics.inlining import inlined
from ppl.semantics.interpreter import run_equations
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Handler, Position
from ppl.semantics.site import WEIGHING
from ppl.semantics.table import CodeKey, addresses_in, site_table

Variable = Any
Values = tuple[Any, ...]
Environment = dict[Variable, Any]


class Segment(NamedTuple):
    """A stage of straight-line equations; it scores at most once, in its last one.

    Attributes:
        equations: Those that depend on random choices.
        inputs: Random variables that this or a later stage reads, in the order of a particle's values.
        outputs: Those alive after the stage.
    """

    equations: tuple[Any, ...]
    inputs: tuple[Variable, ...]
    outputs: tuple[Variable, ...]

    @property
    def length(self) -> int:
        """How many advances it takes: one."""
        return 1

    @property
    def addresses(self) -> frozenset[str]:
        """The addresses of its sites."""
        return _addresses(self.equations)

    @property
    def scores(self) -> bool:
        """Whether it scores at all; the last stage of a program may not."""
        return any(scores(equation) for equation in self.equations)

    def step(self, index: int) -> "Segment":
        """What one advance runs: the whole of it."""
        del index
        return self

    def run(
        self, values: Values, shared: Environment, handler: Handler, reads: Choices | None = None
    ) -> tuple[Values, Any]:
        """Run one particle; returns the values alive after it, and the handler's total."""
        environment = {**shared, **dict(zip(self.inputs, values, strict=True))}
        result = run_equations(self.equations, environment, handler, reads or {})
        return tuple(environment[key] for key in self.outputs), result.total


class Loop(NamedTuple):
    """A stage that is a `scan` with observations or factors inside: as many advances as it has steps.

    Attributes:
        equation: The `scan`.
        moving: Which of its operands are random, in the order of the operands; a carried value is random where any step
            makes it so.
        inputs: Random variables that this or a later stage reads.
        outputs: Those alive after the stage; all its results count as random.
    """

    equation: Any
    moving: tuple[bool, ...]
    inputs: tuple[Variable, ...]
    outputs: tuple[Variable, ...]

    @property
    def loop(self) -> jp.Loop:
        """The parts of the `scan`."""
        return jp.loop_of(self.equation)

    @property
    def length(self) -> int:
        """How many advances it takes."""
        return self.loop.length

    @property
    def addresses(self) -> frozenset[str]:
        """The addresses of its sites."""
        return _addresses((self.equation,))

    @property
    def passing(self) -> bool:
        """Whether values made before the loop are read after it."""
        return any(variable not in self.equation.outvars for variable in self.outputs)

    @property
    def stacks(self) -> bool:
        """Whether a later stage reads what its steps stack up."""
        return any(variable in self.outputs for variable in self.equation.outvars[self.loop.num_carry :])

    def step(self, index: int) -> "LoopStep":
        """What one advance runs."""
        return LoopStep(self, index)

    def time(self, index: Any) -> Any:
        """The place in the inputs of the step that runs as number `index`."""
        return self.length - 1 - index if self.loop.reverse else index


class LoopStep(NamedTuple):
    """One step of a loop by itself: while the loop is under way its carry and outputs are values of the particle."""

    stage: Loop
    number: int

    @property
    def inputs(self) -> tuple[Any, ...]:
        """Keys of a particle's values before the step."""
        return self.stage.inputs if self.number == 0 else self._under_way()

    @property
    def outputs(self) -> tuple[Any, ...]:
        """Keys of a particle's values after the step."""
        return self.stage.outputs if self.number == self.stage.length - 1 else self._under_way()

    def run(self, values: Values, shared: Environment, handler: Handler) -> tuple[Values, Any]:
        """Run one particle."""
        stage, loop = self.stage, self.stage.loop
        environment = {**shared, **dict(zip(self.inputs, values, strict=True))}
        operands = [jp.read(environment, atom) for atom in stage.equation.invars]
        consts, init = operands[: loop.num_consts], operands[loop.num_consts : loop.num_consts + loop.num_carry]
        time = stage.time(self.number)
        xs = [jnp.asarray(x)[time] for x in operands[loop.num_consts + loop.num_carry :]]
        carry, stacked = self._so_far(environment, init)
        body = dict(zip(loop.body.jaxpr.invars, (*consts, *carry, *xs), strict=True))
        body.update(zip(loop.body.jaxpr.constvars, loop.body.consts, strict=True))
        result = run_equations(loop.body.jaxpr.eqns, body, handler, {}, Position(loop=(jnp.int32(time),)))
        outs = [jp.read(body, atom) for atom in loop.body.jaxpr.outvars]
        ys = outs[loop.num_carry :]
        stacked = [whole.at[time].set(y) for whole, y in zip(stacked, ys, strict=True)]
        last = self.number == stage.length - 1
        names = stage.equation.outvars if last else self._slots()
        environment.update(zip(names, [*outs[: loop.num_carry], *stacked], strict=True))
        return tuple(environment[key] for key in self.outputs), result.total

    def _slots(self) -> list[Any]:
        """Keys of the carry and the stacked outputs while the loop is under way."""
        return [(var, "under way") for var in self.stage.equation.outvars]

    def _under_way(self) -> tuple[Any, ...]:
        stage = self.stage
        made = set(stage.equation.outvars)
        passing = [key for key in stage.outputs if key not in made]
        return tuple(dict.fromkeys([*passing, *stage.inputs, *self._slots()]))

    def _so_far(self, environment: Environment, init: list[Any]) -> tuple[list[Any], list[Any]]:
        loop = self.stage.loop
        if self.number > 0:
            values = [environment[slot] for slot in self._slots()]
            return values[: loop.num_carry], values[loop.num_carry :]
        avals = [var.aval for var in self.stage.equation.outvars[loop.num_carry :]]
        return init, [jnp.zeros(aval.shape, aval.dtype) for aval in avals]


Stage = Segment | Loop


class Plan(NamedTuple):
    """The stages of a program, the equations whose results all particles share, and the code that was cut.

    In that code, helpers under `jit` that score are written out.
    """

    stages: tuple[Stage, ...]
    shared: tuple[Any, ...]
    code: jp.Code

    @property
    def length(self) -> int:
        """How many advances there are from start to end."""
        return sum(stage.length for stage in self.stages)

    @property
    def starts(self) -> tuple[int, ...]:
        """The number of the first advance of each stage."""
        return tuple(accumulate((stage.length for stage in self.stages), initial=0))[:-1]

    def step(self, number: int) -> Segment | LoopStep:
        """What the advance of a number runs."""
        place = max(i for i, start in enumerate(self.starts) if start <= number)
        return self.stages[place].step(number - self.starts[place])


def plan_of(program: Program) -> Plan:
    """The stages of a program (cached by its code).

    Raises:
        UnboundedError: it observes or weighs inside a `while_loop`.
    """
    return _plan(CodeKey(program.staged.code))


@lru_cache(maxsize=512)
def _plan(program_code: CodeKey) -> Plan:
    _refuse_unbounded(program_code.code)
    code = inlined(program_code.code, scores)
    jaxpr = code.jaxpr
    random = random_variables(jaxpr.eqns, ())
    shared = tuple(equation for equation in jaxpr.eqns if not _moves(equation, random))
    pieces = _cut([equation for equation in jaxpr.eqns if _moves(equation, random)], random)
    alive = [atom for atom in jaxpr.outvars if not jp.is_literal(atom) and atom in random]
    stages: list[Stage] = []
    for piece in reversed(pieces):
        outputs = tuple(dict.fromkeys(alive))
        made, read = _made_and_read(piece)
        alive = [key for key in outputs if key not in made] + [atom for atom in read if atom in random]
        stages.append(piece._replace(inputs=tuple(dict.fromkeys(alive)), outputs=outputs))
    return Plan(tuple(reversed(stages)), shared, code)


def _refuse_unbounded(code: jp.Code) -> None:
    sites = [e.site for e in site_table(code.jaxpr).values() if any(info.unbounded for info in e.infos)]
    scoring = [f"{site.address!r} ({site.source})" for site in sites if site.kind in WEIGHING]
    if scoring:
        raise UnboundedError(
            f"Particles cannot wait for each other at {', '.join(scoring)}: the number of steps of the while_loop "
            "around it is not known beforehand.\nExpected: observations and factors in straight-line code, branches, "
            "lax.scan or lax.fori_loop with a fixed number of steps.\nFix: lax.scan over the most steps there may be, "
            "with a lax.cond around those beyond the end."
        )


def random_variables(equations: Sequence[Any], known: Collection[Variable]) -> set[Variable]:
    """The variables that depend on a random choice, or on one of the variables known to be random."""
    random = set(known)
    for equation in equations:
        if _moves(equation, random):
            random.update(equation.outvars)
    return random


def _moves(equation: Any, random: Collection[Variable]) -> bool:
    """Whether an equation is a site, holds one, or reads a random variable."""
    return jp.has_sites(equation) or any(not jp.is_literal(atom) and atom in random for atom in equation.invars)


def fixed_and_moving(equations: Sequence[Any], random: Collection[Variable]) -> tuple[list[Any], list[Any]]:
    """The equations whose results all particles share, and the others."""
    moving = [_moves(equation, random) for equation in equations]
    pairs = list(zip(equations, moving, strict=True))
    return [equation for equation, moves in pairs if not moves], [equation for equation, moves in pairs if moves]


def evaluated(equations: Sequence[Any], environment: Environment) -> Environment:
    """The environment with the results of equations without sites."""
    environment = dict(environment)
    for equation in equations:
        operands = [jp.read(environment, atom) for atom in equation.invars]
        environment.update(zip(equation.outvars, jp.evaluate(equation, operands), strict=True))
    return environment


def shared_values(program: Program) -> Environment:
    """Everything that all particles of a program have in common, by variable."""
    code = plan_of(program).code
    start = dict(
        zip(
            (*code.jaxpr.constvars, *code.jaxpr.invars), (*code.consts, *map(jnp.asarray, program.dynamic)), strict=True
        )
    )
    return evaluated(plan_of(program).shared, start)


def outputs_of(program: Program, values: Values, shared: Environment) -> Any:
    """The return value of a run whose last stage has left these values."""
    plan = plan_of(program)
    environment = {**shared, **dict(zip(plan.stages[-1].outputs, values, strict=True))}
    outs = [jnp.asarray(jp.read(environment, atom)) for atom in plan.code.jaxpr.outvars]
    return jax.tree.unflatten(program.staged.out_tree, outs)


def scores(equation: Any) -> bool:
    """Whether an equation observes or weighs, at any depth."""
    if not jp.has_sites(equation):
        return False
    if equation.primitive in jp.SITES:
        return equation.params["site"].kind in WEIGHING
    tables = [site_table(code.jaxpr) for code in jp.inner_codes(equation)]
    return any(entry.site.kind in WEIGHING for table in tables for entry in table.values())


def _cut(equations: list[Any], random: Collection[Variable]) -> list[Stage]:
    pieces: list[Stage] = []
    pending: list[Any] = []
    for equation in equations:
        if scores(equation) and equation.primitive.name == "scan" and jp.loop_of(equation).length > 0:
            if pending:
                pieces.append(Segment(tuple(pending), (), ()))
                pending = []
            pieces.append(Loop(equation, _moving_operands(equation, random), (), ()))
            continue
        pending.append(equation)
        if scores(equation):
            pieces.append(Segment(tuple(pending), (), ()))
            pending = []
    return [*pieces, Segment(tuple(pending), (), ())]


def _moving_operands(equation: Any, random: Collection[Variable]) -> tuple[bool, ...]:
    """Which operands of a `scan` are random; carried values until nothing changes."""
    loop, jaxpr = jp.loop_of(equation), jp.loop_of(equation).body.jaxpr
    moving = [not jp.is_literal(atom) and atom in random for atom in equation.invars]
    while True:
        inside = random_variables(jaxpr.eqns, {v for v, moves in zip(jaxpr.invars, moving, strict=True) if moves})
        after = [not jp.is_literal(atom) and atom in inside for atom in jaxpr.outvars[: loop.num_carry]]
        grown = list(moving)
        for place, moves in enumerate(after, loop.num_consts):
            grown[place] |= moves
        if grown == moving:
            return tuple(moving)
        moving = grown


def _made_and_read(piece: Stage) -> tuple[set[Variable], list[Variable]]:
    equations = (piece.equation,) if isinstance(piece, Loop) else piece.equations
    made = {var for equation in equations for var in equation.outvars}
    reads = [atom for equation in equations for atom in equation.invars if not jp.is_literal(atom)]
    return made, [atom for atom in reads if atom not in made]


def _addresses(equations: Sequence[Any]) -> frozenset[str]:
    inside = [addresses_in(code.jaxpr) for equation in equations for code in jp.inner_codes(equation)]
    own = [equation.params["site"].address for equation in equations if equation.primitive in jp.SITES]
    return frozenset(own).union(*inside)
