"""One step of a loop of a program for a whole layer of particles, and what surrounds the steps.

A loop's operands are those that all particles share and the random ones (`cast_of`). A step (`loop_step`) takes what is
carried by all, the layer and the random inputs to what they are a step later. The layer holds what differs between
particles *and* moves on; what is only read after the loop, or read by step, stays where it was before the loop and is
found by each particle's origin. Stacked outputs come step by step for all particles and are put together along each
particle's line of ancestors (`results_of`), so that no path is copied at a resampling.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ppl.semantics import jaxpr as jp
from ppl.semantics.interpreter import run_equations
from ppl.semantics.lanes import vmap
from ppl.semantics.protocol import Choices, Position
from ppl.semantics.representations import Particle, WeighAndWrite
from ppl.semantics.stages import Environment, Loop, evaluated, fixed_and_moving, random_variables


class Marked(NamedTuple):
    """A particle's value with its place before the last transformation and at the start.

    `ahead` is the log density (nats) of a retained future for it. Empty: nobody asks.
    """

    value: Any
    index: Any
    eve: Any
    ahead: Any = ()


class Cast(NamedTuple):
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

    @property
    def layer(self) -> dict[int, Any]:
        """The random constants and carried values: what a particle holds inside the loop."""
        return {**self.among(self.random, "consts"), **self.among(self.random, "carry")}


def cast_of(stage: Loop, particles: Particle, shared: Environment, *, batched: bool) -> Cast:
    """The operands of a loop before its first step; the particles' values are `Marked`."""
    known = dict(zip(stage.inputs, particles.value.value, strict=True))
    fixed, random = {}, {}
    for place, (atom, moves) in enumerate(zip(stage.equation.invars, stage.moving, strict=True)):
        if not jp.is_literal(atom) and atom in known:
            random[place] = known[atom]
            continue
        value = jp.read(shared, atom)
        if moves and batched:
            value = jnp.broadcast_to(value, (particles.log_weight.shape[0], *jnp.shape(value)))
        (random if moves else fixed)[place] = value
    return Cast(stage, fixed, random)


def loop_step(
    stage: Loop,
    time: Any,
    shared: dict[int, Any],
    layer: Any,
    *,
    batched: bool,
    reads: Callable[[Any], Choices] | None = None,
) -> Any:
    """One step for the whole layer.

    Args:
        stage: The loop.
        time: The place of the step's inputs.
        shared: By place, the constants, carried values and inputs of the step that all particles share.
        layer: The particles, whose values are `Marked` pairs of what they hold (by place) and of their origin; and the
            random inputs of all steps, by place.
        batched: Whether there are many particles.
        reads: What the particle at a place of the layer reads at its sites; by default nothing.

    Returns:
        The shared carry after the step; the particles; the step's outputs; what the particles wrote, and its masks.
    """
    loop, jaxpr = stage.loop, stage.loop.body.jaxpr
    particles, xs = layer
    random = {v for v, moves in zip(jaxpr.invars, stage.moving, strict=True) if moves}
    fixed, moving = fixed_and_moving(jaxpr.eqns, random_variables(jaxpr.eqns, random))
    environment = {jaxpr.invars[place]: x for place, x in shared.items()}
    environment.update(zip(jaxpr.constvars, loop.body.consts, strict=True))
    environment = evaluated(fixed, environment)
    kept = list(range(loop.num_consts, loop.num_consts + loop.num_carry))
    after = dict(zip(kept, jaxpr.outvars, strict=False))

    def one(particle: Particle, place: Any) -> Any:
        values, origin = particle.value.value
        mine = {place: (x[origin, time] if batched else x[time]) for place, x in xs.items()}
        inside = {**environment, **{jaxpr.invars[place]: x for place, x in {**values, **mine}.items()}}
        given = {} if reads is None else reads(place)
        result = run_equations(moving, inside, WeighAndWrite(), given, Position(loop=(time,)))
        new = {place: jp.read(inside, after[place]) if place in after else x for place, x in values.items()}
        ys = [jp.read(inside, atom) for atom in jaxpr.outvars[loop.num_carry :]]
        value = particle.value._replace(value=(new, origin))
        return Particle(value, particle.log_weight + result.total), ys, (result.writes, result.masks)

    carried = {place: jp.read(environment, after[place]) for place in kept if not stage.moving[place]}
    particles, ys, written = each(one, particles, places_of(particles), batched=batched)
    return carried, particles, ys, written


def places_of(particles: Particle) -> Any:
    """The place of every particle in its layer."""
    log_weight = particles.log_weight
    return jnp.arange(log_weight.shape[0], dtype=jnp.int32) if log_weight.ndim else jnp.int32(0)


def each(function: Any, *arguments: Any, batched: bool) -> Any:
    """Run a function for each particle."""
    if not batched:
        return function(*arguments)
    size = jax.tree.leaves(arguments)[0].shape[0]
    return vmap(function, axis_size=size)(*arguments)


def lines_of(ancestors: Any, start: Any, *, reverse: bool) -> Any:
    """The place of every last particle's ancestor at each step."""

    def back(line: Any, above: Any) -> Any:
        return (above[line] if line.ndim else line), line

    return lax.scan(back, start, ancestors, reverse=not reverse)[1]


def along(ys: list[Any], lines: Any, *, batched: bool) -> list[Any]:
    """Stacked outputs (steps, particles, ...) as (particles, steps, ...), each along its line of ancestors."""
    if not batched or lines is None:
        return ys
    return [jnp.moveaxis(jax.vmap(lambda row, line: row[line])(y, lines), 0, 1) for y in ys]


def results_of(stage: Loop, carried: dict[int, Any], ys: list[Any], size: int | None) -> Environment:
    """The results of the `scan` for each of `size` particles (None: for a single one)."""
    loop = stage.loop
    last = []
    for place in range(loop.num_consts, loop.num_consts + loop.num_carry):
        x = carried[place]
        shared = size is not None and not stage.moving[place]
        last.append(jnp.broadcast_to(x, (size, *jnp.shape(x))) if shared else x)
    return dict(zip(stage.equation.outvars, [*last, *ys], strict=True))
