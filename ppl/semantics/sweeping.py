"""The body of `sweep`: all stages of a program, one after the other, with a transformation of the layer before each.

A loop of the program becomes one `scan` over the whole layer. Its carry holds what differs between particles *and*
moves on; what is only read after the loop, or read by step (inputs that are random), stays where it was before the
loop and is found by each particle's origin. Stacked outputs are stacked step by step for all particles and put
together along each particle's line of ancestors behind the loop, so that no path is copied at a resampling.
"""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ppl.errors import MeasureError
from ppl.numerics.weights import effective_sample_size, log_sum_exp, nan_to_zero_weight
from ppl.semantics import jaxpr as jp
from ppl.semantics import scope
from ppl.semantics.blocks import Transformer, identity
from ppl.semantics.interpreter import run_equations
from ppl.semantics.lanes import vmap
from ppl.semantics.language import deterministic, sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Position
from ppl.semantics.representations import Particle, Population, WeighSites, Weighted
from ppl.semantics.stages import (
    Environment,
    Loop,
    Segment,
    evaluated,
    fixed_and_moving,
    plan_of,
    random_variables,
    shared_values,
)


@dataclass(frozen=True)
class Sweep:
    """How to sweep: the transformation before each stage, those after each, the layer's class, the first stage.

    `ancestry` asks for the record of each particle's place before each transformation.
    """

    before: Transformer
    after: tuple[Transformer, ...]
    layer: type
    first: int
    ancestry: bool = True

    @property
    def batched(self) -> bool:
        """Whether there are many particles."""
        return self.layer is Population


class Marked(NamedTuple):
    """A particle's value with where it was before the last transformation (empty: nobody asks), and at the start."""

    value: Any
    index: Any
    eve: Any


def swept(before: Program, program: Program, how: Sweep) -> Particle:
    """Run the stages from `how.first` on; the value is the layer at the end."""
    shared = shared_values(program)
    particles = sample("before", before)
    particles = particles._replace(value=Marked(particles.value, (), _places(particles)))
    for number, stage in enumerate(plan_of(program).stages[how.first :], how.first):
        name = f"stage {number}"
        if isinstance(stage, Loop):
            particles = _loop(stage, particles, shared, how, name)
        else:
            particles = _segment(stage, particles, shared, how, name)
    deterministic("eve", particles.value.eve)
    _record(particles, how)
    return particles._replace(value=particles.value.value)


def _places(particles: Particle) -> Any:
    """The place of every particle in its layer."""
    log_weight = particles.log_weight
    return jnp.arange(log_weight.shape[0], dtype=jnp.int32) if log_weight.ndim else jnp.int32(0)


# --- a transformation of the layer ------------------------------------------------------------------------------------


def _transformed(particles: Particle, transformers: tuple[Transformer, ...], how: Sweep) -> Particle:
    size = particles.log_weight.shape
    for number, transformer in enumerate(transformers):
        layer = _layer(particles, how)
        particles = sample(f"transformer {number}" if number else "transformer", transformer(layer).program)
    if particles.log_weight.shape != size:
        raise MeasureError(
            f"A transformation in a sweep made a layer of shape {particles.log_weight.shape} of one of shape {size}.\n"
            "Expected: as many particles as before. Spawn before the sweep."
        )
    return particles


def _layer(particles: Particle, how: Sweep) -> Weighted | Population:
    program = Program.of(_given, (particles,))
    return Population(program, particles.log_weight.shape[0]) if how.batched else Weighted(program)


def _given(particles: Particle) -> Particle:
    return particles


@contextmanager
def _under(name: str) -> Any:
    here = scope.current()
    with scope.entered(here._replace(prefix="/".join(part for part in (here.prefix, name) if part))):
        yield


def _before(particles: Particle, how: Sweep, name: str, *, marked: bool = False) -> Particle:
    """The transformation before a stage; each particle is marked with its place before, where somebody asks."""
    marked |= how.ancestry
    with _under(name):
        _record(particles, how)
        index = _places(particles) if marked else ()
        particles = particles._replace(value=particles.value._replace(index=index))
        particles = _transformed(particles, (how.before,), how)
        if marked:
            deterministic("ancestors", particles.value.index)
    return particles


def _record(particles: Particle, how: Sweep) -> None:
    """What is worth knowing of a layer: where `how.before` reads it too, it is computed once."""
    if how.batched:
        deterministic("log_evidence", log_sum_exp(particles.log_weight))
        deterministic("ess", effective_sample_size(particles.log_weight))


def _after(particles: Particle, how: Sweep, name: str) -> Particle:
    """The transformations after a stage."""
    log_weight = nan_to_zero_weight(particles.log_weight)
    with _under(name):
        deterministic("nan_weights", jnp.sum(jnp.isnan(particles.log_weight), dtype=jnp.int32))
        deterministic("log_weight", log_weight)
        particles = particles._replace(log_weight=log_weight, value=particles.value._replace(index=()))
        with _under("after"):
            return _transformed(particles, how.after, how) if how.after else particles


def _each(function: Any, how: Sweep, *arguments: Any) -> Any:
    """Run a function for each particle."""
    if not how.batched:
        return function(*arguments)
    size = jax.tree.leaves(arguments)[0].shape[0]
    return vmap(function, axis_size=size)(*arguments)


# --- straight-line code -----------------------------------------------------------------------------------------------


def _segment(stage: Segment, particles: Particle, shared: Environment, how: Sweep, name: str) -> Particle:
    particles = _before(particles, how if stage.scores else replace(how, before=identity), name)

    def step(particle: Particle) -> Particle:
        values, log_weight = stage.run(particle.value.value, shared, WeighSites())
        return Particle(particle.value._replace(value=values), particle.log_weight + log_weight)

    return _after(_each(step, how, particles), how, name)


# --- loops ------------------------------------------------------------------------------------------------------------


class _Cast(NamedTuple):
    """A loop's operands, those that particles share and the random ones apart, by place."""

    stage: Loop
    shared: dict[int, Any]
    random: dict[int, Any]

    def among(self, part: dict[int, Any], group: str) -> dict[int, Any]:
        """The operands of a group (consts, carry, xs) in a part."""
        loop = self.stage.loop
        first = {"consts": 0, "carry": loop.num_consts, "xs": loop.num_consts + loop.num_carry}[group]
        ends = {"consts": loop.num_consts, "carry": loop.num_consts + loop.num_carry}
        return {place: x for place, x in part.items() if first <= place < ends.get(group, len(self.stage.moving))}


def _cast(stage: Loop, particles: Particle, shared: Environment, how: Sweep) -> _Cast:
    known = dict(zip(stage.inputs, particles.value.value, strict=True))
    fixed, random = {}, {}
    for place, (atom, moves) in enumerate(zip(stage.equation.invars, stage.moving, strict=True)):
        if not jp.is_literal(atom) and atom in known:
            random[place] = known[atom]
            continue
        value = jp.read(shared, atom)
        if moves and how.batched:
            value = jnp.broadcast_to(value, (particles.log_weight.shape[0], *jnp.shape(value)))
        (random if moves else fixed)[place] = value
    return _Cast(stage, fixed, random)


def _loop(stage: Loop, particles: Particle, shared: Environment, how: Sweep, name: str) -> Particle:
    cast, loop = _cast(stage, particles, shared, how), stage.loop
    xs = cast.among(cast.random, "xs")
    moving = {**cast.among(cast.random, "consts"), **cast.among(cast.random, "carry")}
    start = _places(particles) if xs or stage.passing else ()

    def body(state: Any, inputs: Any) -> Any:
        carried, layer = state
        time, given = inputs
        layer = _before(layer, how, name, marked=stage.stacks)
        index = layer.value.index
        values = {**cast.among(cast.shared, "consts"), **carried, **given}
        carried, (layer, ys) = _step(stage, time, values, (layer, xs), how)
        return (carried, _after(layer, how, name)), (index, ys)

    layer = particles._replace(value=particles.value._replace(value=(moving, start)))
    init = cast.among(cast.shared, "carry"), layer
    times = jnp.arange(loop.length, dtype=jnp.int32)
    (carried, layer), (ancestors, ys) = lax.scan(
        body, init, (times, cast.among(cast.shared, "xs")), length=loop.length, reverse=loop.reverse
    )
    moving, origin = layer.value.value
    lines = _lines(ancestors, _places(particles), reverse=loop.reverse) if stage.stacks else None
    results = _results(stage, {**carried, **moving}, _along(ys, lines, how), particles, how)
    before = dict(zip(stage.inputs, particles.value.value, strict=True))
    found = tuple(results[v] if v in results else _taken(before[v], origin, how) for v in stage.outputs)
    return layer._replace(value=layer.value._replace(value=found))


def _step(stage: Loop, time: Any, shared: dict[int, Any], layer: Any, how: Sweep) -> Any:
    """One step for the whole layer: the shared carry after it, the layer, and the outputs of all particles."""
    loop, jaxpr = stage.loop, stage.loop.body.jaxpr
    particles, xs = layer
    random = {v for v, moves in zip(jaxpr.invars, stage.moving, strict=True) if moves}
    fixed, moving = fixed_and_moving(jaxpr.eqns, random_variables(jaxpr.eqns, random))
    environment = {jaxpr.invars[place]: x for place, x in shared.items()}
    environment.update(zip(jaxpr.constvars, loop.body.consts, strict=True))
    environment = evaluated(fixed, environment)
    kept = list(range(loop.num_consts, loop.num_consts + loop.num_carry))
    after = dict(zip(kept, jaxpr.outvars, strict=False))

    def one(particle: Particle) -> Any:
        values, origin = particle.value.value
        mine = {place: (x[origin, time] if how.batched else x[time]) for place, x in xs.items()}
        inside = {**environment, **{jaxpr.invars[place]: x for place, x in {**values, **mine}.items()}}
        result = run_equations(moving, inside, WeighSites(), {}, Position(loop=(time,)))
        new = {place: jp.read(inside, after[place]) if place in after else x for place, x in values.items()}
        ys = [jp.read(inside, atom) for atom in jaxpr.outvars[loop.num_carry :]]
        value = particle.value._replace(value=(new, origin))
        return Particle(value, particle.log_weight + result.total), ys

    carried = {place: jp.read(environment, after[place]) for place in kept if not stage.moving[place]}
    return carried, _each(one, how, particles)


def _lines(ancestors: Any, start: Any, *, reverse: bool) -> Any:
    """The place of every last particle's ancestor at each step."""

    def back(line: Any, above: Any) -> Any:
        return (above[line] if line.ndim else line), line

    return lax.scan(back, start, ancestors, reverse=not reverse)[1]


def _along(ys: list[Any], lines: Any, how: Sweep) -> list[Any]:
    """Stacked outputs (steps, particles, ...) as (particles, steps, ...), each along its line of ancestors."""
    if not how.batched or lines is None:
        return ys
    return [jnp.moveaxis(jax.vmap(lambda row, line: row[line])(y, lines), 0, 1) for y in ys]


def _results(stage: Loop, carried: dict[int, Any], ys: list[Any], particles: Particle, how: Sweep) -> Environment:
    """The results of the `scan` for each particle."""
    loop = stage.loop
    last = []
    for place in range(loop.num_consts, loop.num_consts + loop.num_carry):
        x = carried[place]
        shared = how.batched and not stage.moving[place]
        last.append(jnp.broadcast_to(x, (particles.log_weight.shape[0], *jnp.shape(x))) if shared else x)
    return dict(zip(stage.equation.outvars, [*last, *ys], strict=True))


def _taken(x: Any, origin: Any, how: Sweep) -> Any:
    return x[origin] if how.batched else x
