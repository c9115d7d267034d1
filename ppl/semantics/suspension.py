"""Suspended runs: a program cut at its observations and factors, so that particles can wait for each other there.

The program's equations are cut after each one that scores; a `scan` that scores inside is cut at every step. Each
piece is a stage; a run that is suspended before a stage is the tuple of values that later stages need. All particles
of a layer are at the same stage. Laws: finish . advance = finish; advancing at the end does nothing.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppl.semantics import jaxpr as jp
from ppl.semantics.blocks import Transformer, compose, resample, spawn
from ppl.semantics.enumeration import DEFAULT_LIMIT
from ppl.semantics.finite import FiniteMeasure
from ppl.semantics.interpreter import run, run_equations
from ppl.semantics.lanes import vmap
from ppl.semantics.language import sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Position
from ppl.semantics.representations import Particle, Population, WeighSites, Weighted, meaning
from ppl.semantics.site import WEIGHING
from ppl.semantics.table import CodeKey, site_table

Key = Any
"""What names a value of a suspended run: a variable of the jaxpr, or a slot of a loop under way."""


class Segment(NamedTuple):
    """A stage of straight-line equations."""

    equations: tuple[Any, ...]
    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]

    def run(self, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
        """Bind the stage's choices; returns the values alive after it and its log weight."""
        environment = dict(zip(self.inputs, values, strict=True))
        result = run_equations(self.equations, environment, WeighSites(), {})
        return tuple(environment[key] for key in self.outputs), result.total


class LoopStep(NamedTuple):
    """A stage that is one step of a `scan`: its carry and outputs so far live in slots of their own."""

    equation: Any
    step: int
    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]

    def run(self, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
        """Bind the step's choices."""
        environment = dict(zip(self.inputs, values, strict=True))
        loop = jp.loop_of(self.equation)
        operands = [jp.read(environment, atom) for atom in self.equation.invars]
        consts, init = operands[: loop.num_consts], operands[loop.num_consts : loop.num_consts + loop.num_carry]
        time = loop.length - 1 - self.step if loop.reverse else self.step
        xs = [x[time] for x in operands[loop.num_consts + loop.num_carry :]]
        carry, stacked = self._under_way(environment, init, loop)
        result = run(loop.body, (*consts, *carry, *xs), WeighSites(), {}, Position(loop=(jnp.int32(time),)))
        stacked = [whole.at[time].set(y) for whole, y in zip(stacked, result.outs[loop.num_carry :], strict=True)]
        carry = result.outs[: loop.num_carry]
        names = self.equation.outvars if self.step == loop.length - 1 else self.slots()
        environment.update(zip(names, [*carry, *stacked], strict=True))
        return tuple(environment[key] for key in self.outputs), result.total

    def slots(self) -> list[Key]:
        """Names for the carry and the stacked outputs while the loop is under way."""
        return [(var, "under way") for var in self.equation.outvars]

    def _under_way(self, environment: dict[Key, Any], init: list[Any], loop: jp.Loop) -> tuple[list[Any], list[Any]]:
        if self.step > 0:
            values = [environment[slot] for slot in self.slots()]
            return values[: loop.num_carry], values[loop.num_carry :]
        avals = [var.aval for var in self.equation.outvars[loop.num_carry :]]
        return init, [jnp.zeros(aval.shape, aval.dtype) for aval in avals]


Stage = Segment | LoopStep


@lru_cache(maxsize=512)
def _plan(program_code: CodeKey) -> tuple[Stage, ...]:
    code = program_code.code
    jaxpr = code.jaxpr
    pieces = _cut(jaxpr.eqns)
    alive = [atom for atom in jaxpr.outvars if not jp.is_literal(atom)]
    stages: list[Stage] = []
    for piece in reversed(pieces):
        outputs = tuple(dict.fromkeys(alive))
        made, read = _made_and_read(piece)
        alive = [key for key in outputs if key not in made] + read
        inputs = tuple(dict.fromkeys(alive))
        stages.append(piece._replace(inputs=inputs, outputs=outputs))
    return tuple(reversed(stages))


def scores(equation: Any) -> bool:
    """Whether an equation observes or weighs, at any depth."""
    if not jp.has_sites(equation):
        return False
    if equation.primitive in jp.SITES:
        return equation.params["site"].kind in WEIGHING
    tables = [site_table(code.jaxpr) for code in jp.inner_codes(equation)]
    return any(entry.site.kind in WEIGHING for table in tables for entry in table.values())


def _cut(equations: list[Any]) -> list[Stage]:
    pieces: list[Stage] = []
    pending: list[Any] = []
    for equation in equations:
        if scores(equation) and equation.primitive.name == "scan":
            if pending:
                pieces.append(Segment(tuple(pending), (), ()))
                pending = []
            length = jp.loop_of(equation).length
            pieces += [LoopStep(equation, index, (), ()) for index in range(length)]
            continue
        pending.append(equation)
        if scores(equation):
            pieces.append(Segment(tuple(pending), (), ()))
            pending = []
    return [*pieces, Segment(tuple(pending), (), ())]


def _made_and_read(piece: Stage) -> tuple[set[Key], list[Key]]:
    if isinstance(piece, LoopStep):
        last = piece.step == jp.loop_of(piece.equation).length - 1
        made = set(piece.equation.outvars if last else piece.slots())
        slots = piece.slots() if piece.step > 0 else []
        return made, [*(a for a in piece.equation.invars if not jp.is_literal(a)), *slots]
    made = {var for equation in piece.equations for var in equation.outvars}
    reads = [atom for equation in piece.equations for atom in equation.invars if not jp.is_literal(atom)]
    return made, [atom for atom in reads if atom not in made]


# --- suspended runs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Suspended:
    """Runs of a program that wait before stage `position`; `layer` holds the values that later stages need.

    `hooks` are transformations of the layer that are applied after every advance (`hoist`).
    """

    layer: Weighted | Population
    program: Program
    position: int = 0
    hooks: tuple[Transformer, ...] = ()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the program."""
        return _plan(CodeKey(self.program.staged.code))

    @property
    def finished(self) -> bool:
        """Whether no stage is left."""
        return self.position >= len(self.stages)


def suspend(program: Program) -> Suspended:
    """A program stopped before its first stage."""
    return Suspended(Weighted(Program.of(_start, (program,))), program)


def _start(program: Program) -> Particle:
    staged = program.staged
    jaxpr = staged.code.jaxpr
    environment = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*staged.code.consts, *program.dynamic), strict=True))
    stages = _plan(CodeKey(staged.code))
    values = tuple(jnp.asarray(environment[key]) for key in stages[0].inputs)
    return Particle(values, jnp.zeros((), jnp.result_type(float)))


def advance(times: int = 1) -> Transformer:
    """Run the next stage (`times` of them) of every particle; at the end it does nothing."""

    def transform(suspended: Suspended) -> Suspended:
        for _ in range(times):
            suspended = _advanced(suspended)
        return suspended

    return transform


def _advanced(suspended: Suspended) -> Suspended:
    if suspended.finished:
        return suspended
    layer, number = suspended.layer, suspended.position
    batched = isinstance(layer, Population)
    program = Program.of(_advance_layer, (layer.program, suspended.program), {"number": number, "batched": batched})
    layer = replace(layer, program=program)
    for hook in suspended.hooks:
        layer = hook(layer)
    return replace(suspended, layer=layer, position=number + 1)


def _advance_layer(before: Program, program: Program, number: int, *, batched: bool) -> Particle:
    stage = _plan(CodeKey(program.staged.code))[number]
    particles = sample("before", before)

    def step(particle: Particle) -> Particle:
        values, log_weight = stage.run(particle.value)
        return Particle(values, particle.log_weight + log_weight)

    return vmap(step)(particles) if batched else step(particles)


def finish() -> Transformer:
    """Run every stage that is left: the layer of the program's values, `Weighted` or `Population`."""

    def transform(suspended: Suspended) -> Weighted | Population:
        while not suspended.finished:
            suspended = _advanced(suspended)
        layer = suspended.layer
        batched = isinstance(layer, Population)
        outputs = Program.of(_finished, (layer.program, suspended.program), {"batched": batched})
        return replace(layer, program=outputs)

    return transform


def _finished(before: Program, program: Program, *, batched: bool) -> Particle:
    staged = program.staged
    final = _plan(CodeKey(staged.code))[-1].outputs
    particles = sample("before", before)

    def value(particle: Particle) -> Particle:
        environment = dict(zip(final, particle.value, strict=True))
        outs = [jnp.asarray(jp.read(environment, atom)) for atom in staged.code.jaxpr.outvars]
        return Particle(jax.tree.unflatten(staged.out_tree, outs), particle.log_weight)

    return vmap(value)(particles) if batched else value(particles)


def hoist_first(transformer: Transformer) -> Transformer:
    """Apply a transformation of layers to the layer at hand: `Suspended -> Suspended`."""
    return lambda suspended: replace(suspended, layer=transformer(suspended.layer))


def hoist(transformer: Transformer) -> Transformer:
    """Apply a transformation to the layer at hand and to the layer after every later advance."""

    def transform(suspended: Suspended) -> Suspended:
        return replace(suspended, layer=transformer(suspended.layer), hooks=(*suspended.hooks, transformer))

    return transform


def smc(n: int, steps: int, scheme: str = "systematic", threshold: float | None = None) -> Transformer:
    """Sequential Monte Carlo: finish . (advance . hoist_first resample)^steps . hoist_first (spawn n)."""
    step = compose(advance(), hoist_first(resample(scheme, threshold)))
    return compose(finish(), *[step] * steps, hoist_first(spawn(n)))


@meaning.register
def _(representation: Suspended, limit: int = DEFAULT_LIMIT) -> FiniteMeasure:
    return meaning(finish()(representation), limit)
