"""The body of `sweep`: all stages of a program, one after the other, with a transformation of the layer before each.

A loop of the program becomes one `scan` over the whole layer. Its carry holds what differs between particles *and*
moves on; what is only read after the loop, or read by step (inputs that are random), stays where it was before the
loop and is found by each particle's origin. Stacked outputs are stacked step by step for all particles and put
together along each particle's line of ancestors behind the loop, so that no path is copied at a resampling.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl.errors import MeasureError
from ppl.numerics import kinship
from ppl.numerics.weights import effective_sample_size, log_sum_exp, nan_to_zero_weight
from ppl.semantics import scope
from ppl.semantics.blocks import Transformer, identity
from ppl.semantics.keeping import Keeper, Step
from ppl.semantics.language import deterministic, sample
from ppl.semantics.looping import Cast, Marked, along, cast_of, each, lines_of, loop_step, places_of, results_of
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.semantics.representations import Particle, Population, WeighSites, layer_of
from ppl.semantics.retained import Future, Retained, weights_of
from ppl.semantics.stages import Environment, Loop, Segment, plan_of, shared_values

Layer = tuple[Any, Particle]
"""What is known of families (empty: nobody asks), and the particles."""


@dataclass(frozen=True)
class Sweep:
    """How to sweep: the transformation before each stage, those after each, the layer's class, the first stage.

    `ancestry` asks for the record of each particle's place before each transformation; `families`, for what
    `ppl.numerics.kinship` knows of a population; `keeper`, for what it keeps of loops; `ancestor_sampling`, for each
    particle's `ahead`; `standing`, for the record of where each particle stood, and its weight, before each
    transformation (for backward sampling). `retained` is there inside the sweep alone.
    """

    before: Transformer
    after: tuple[Transformer, ...]
    layer: type
    first: int
    ancestry: bool = True
    families: bool = False
    keeper: Keeper | None = None
    ancestor_sampling: bool = False
    standing: bool = False
    retained: Retained | None = None

    @property
    def batched(self) -> bool:
        """Whether there are many particles."""
        return self.layer is Population


def swept(before: Program, program: Program, how: Sweep, retained: Choices | None = None) -> Particle:
    """Run the stages from `how.first` on; the value is the layer at the end. The first particle may retain a path."""
    shared, stages = shared_values(program), plan_of(program).stages
    particles = sample("before", before)
    families = how.families and how.batched
    eve = kinship.first_labels(len(particles.log_weight)) if families else places_of(particles)
    particles = particles._replace(value=Marked(particles.value, (), eve))
    kin: Any = kinship.start(particles.log_weight) if families else ()
    for number, stage in enumerate(stages[how.first :], how.first):
        name = f"stage {number}"
        if retained is not None:
            how = replace(how, retained=Retained(retained, program.staged.table, stages[number + 1 :], shared))
        if isinstance(stage, Loop):
            kin, particles = _loop(stage, (kin, particles), shared, how, name)
        else:
            kin, particles = _segment(stage, (kin, particles), shared, how, name)
    if families:
        deterministic("families", kinship.variance(kin, particles.value.eve, particles.log_weight))
    else:
        deterministic("eve", particles.value.eve)
    _record(particles, how)
    return particles._replace(value=particles.value.value)


# --- a transformation of the layer ------------------------------------------------------------------------------------


def _transformed(particles: Particle, transformers: tuple[Transformer, ...], how: Sweep) -> Particle:
    size = particles.log_weight.shape
    for number, transformer in enumerate(transformers):
        layer = layer_of(particles)
        particles = sample(f"transformer {number}" if number else "transformer", transformer(layer).program)
    if particles.log_weight.shape != size:
        raise MeasureError(
            f"A transformation in a sweep made a layer of shape {particles.log_weight.shape} of one of shape {size}.\n"
            "Expected: as many particles as before. Spawn before the sweep."
        )
    return particles


def _before(layer: Layer, how: Sweep, name: str, *, marked: bool = False, ahead: Any = ()) -> Layer:
    """The transformation before a stage; each particle is marked with its place before, where somebody asks."""
    kin, particles = layer
    marked |= how.ancestry
    with scope.under(name):
        _record(particles, how)
        index = places_of(particles) if marked else ()
        particles = particles._replace(value=particles.value._replace(index=index, ahead=ahead))
        ess: Any = effective_sample_size(particles.log_weight) if kin else ()
        particles = _transformed(particles, (how.before,), how)
        if marked:
            deterministic("ancestors", particles.value.index)
    value = particles.value._replace(ahead=())
    if kin:
        kin, labels = kinship.tick(kin, value.eve, particles.log_weight, ess)
        value = value._replace(eve=labels)
    return kin, particles._replace(value=value)


def _record(particles: Particle, how: Sweep) -> None:
    """What is worth knowing of a layer: where `how.before` reads it too, it is computed once."""
    if how.batched:
        deterministic("log_evidence", log_sum_exp(particles.log_weight))
        deterministic("ess", effective_sample_size(particles.log_weight))


def _after(particles: Particle, how: Sweep, name: str) -> Particle:
    """The transformations after a stage."""
    log_weight = nan_to_zero_weight(particles.log_weight)
    with scope.under(name):
        deterministic("nan_weights", jnp.sum(jnp.isnan(particles.log_weight), dtype=jnp.int32))
        deterministic("log_weight", log_weight)
        particles = particles._replace(log_weight=log_weight, value=particles.value._replace(index=()))
        with scope.under("after"):
            return _transformed(particles, how.after, how) if how.after else particles


# --- straight-line code -----------------------------------------------------------------------------------------------


def _segment(stage: Segment, layer: Layer, shared: Environment, how: Sweep, name: str) -> Layer:
    (kin, particles), ahead, retained = layer, (), how.retained
    if retained is not None and how.ancestor_sampling and stage.scores and stage.inputs:
        ahead = weights_of(each(partial(retained.ahead, stage), particles.value.value, batched=how.batched))
    how_before = how if stage.scores else replace(how, before=identity)
    _stand(particles, particles.value.value, how, name)
    kin, particles = _before((kin, particles), how_before, name, ahead=ahead)

    def step(particle: Particle, place: Any) -> Particle:
        reads = None if retained is None else retained.reads(stage, place)
        values, log_weight = stage.run(particle.value.value, shared, WeighSites(), reads)
        return Particle(particle.value._replace(value=values), particle.log_weight + log_weight)

    return kin, _after(each(step, particles, places_of(particles), batched=how.batched), how, name)


# --- loops ------------------------------------------------------------------------------------------------------------


def _loop(stage: Loop, layer: Layer, shared: Environment, how: Sweep, name: str) -> Layer:
    kin, particles = layer
    cast, loop = cast_of(stage, particles, shared, batched=how.batched), stage.loop
    xs, before = cast.among(cast.random, "xs"), dict(zip(stage.inputs, particles.value.value, strict=True))
    start = places_of(particles) if xs or stage.passing else ()
    marked = stage.stacks or how.keeper is not None
    if how.standing:
        with scope.under(name):
            deterministic("entering", {"values": particles.value.value, "weight": particles.log_weight})

    def body(state: Any, inputs: Any) -> Any:
        carried, layer, kin, kept = state
        time, given = inputs
        values = {**cast.among(cast.shared, "consts"), **carried, **given}
        ahead = _ahead_in_loop(cast, values, time, (layer, before), how)
        _stand(layer, (carried, layer.value.value), how, name)
        kin, layer = _before((kin, layer), how, name, marked=marked, ahead=ahead)
        index = layer.value.index
        reads = None if how.retained is None else partial(how.retained.reads, stage, time=time)
        carried, layer, ys, written = loop_step(stage, time, values, (layer, xs), batched=how.batched, reads=reads)
        layer = _after(layer, how, name)
        if how.keeper is not None:
            with scope.under(name):
                kept = how.keeper.step(kept, Step(time, index, written, layer.log_weight))
        return (carried, layer, kin, kept), (index, ys)

    layer = particles._replace(value=particles.value._replace(value=(cast.layer, start)))
    kept = (
        ()
        if how.keeper is None
        else how.keeper.start(len(particles.log_weight), _written(cast, layer, how), loop.length)
    )
    init = cast.among(cast.shared, "carry"), layer, kin, kept
    times = jnp.arange(loop.length, dtype=jnp.int32)
    (carried, layer, kin, kept), (ancestors, ys) = lax.scan(
        body, init, (times, cast.among(cast.shared, "xs")), length=loop.length, reverse=loop.reverse
    )
    if how.keeper is not None:
        with scope.under(name):
            how.keeper.end(kept, layer.log_weight)
    moving, origin = layer.value.value
    lines = lines_of(ancestors, places_of(particles), reverse=loop.reverse) if stage.stacks else None
    size = particles.log_weight.shape[0] if how.batched else None
    results = results_of(stage, {**carried, **moving}, along(ys, lines, batched=how.batched), size)
    found = tuple(results[v] if v in results else _taken(before[v], origin, how) for v in stage.outputs)
    return kin, layer._replace(value=layer.value._replace(value=found))


def _written(cast: Cast, layer: Particle, how: Sweep) -> Any:
    """Shapes and dtypes of what one step writes for all particles."""
    stage = cast.stage

    def step(time: Any) -> Any:
        first = {place: jnp.asarray(x)[time] for place, x in cast.among(cast.shared, "xs").items()}
        values = {**cast.among(cast.shared, "consts"), **cast.among(cast.shared, "carry"), **first}
        layer_and_xs = layer, cast.among(cast.random, "xs")
        return loop_step(stage, time, values, layer_and_xs, batched=how.batched)[3]

    return jax.eval_shape(step, jnp.int32(0))


def _ahead_in_loop(cast: Cast, shared: dict[int, Any], time: Any, layer: Any, how: Sweep) -> Any:
    """Log density (nats) of the retained future from a step on, for each particle; empty where nobody asks."""
    if not how.ancestor_sampling or how.retained is None:
        return ()
    particles, before = layer
    return weights_of(
        futures_in_loop(how.retained, cast, (shared, particles.value.value), time, before, batched=how.batched)
    )


def futures_in_loop(
    retained: Retained, cast: Cast, values: tuple[dict[int, Any], Any], time: Any, before: Environment, *, batched: bool
) -> Future:
    """The retained future from a step of a loop on, for each particle.

    Args:
        retained: The path.
        cast: The loop's operands.
        values: By place, what all particles share before the step; and what each holds, with its origin.
        time: The place of the step's inputs.
        before: The particles' values before the loop.
        batched: Whether there are many particles.
    """
    stage, (shared, held) = cast.stage, values

    def one(value: Any) -> Future:
        own_values, origin = value
        passing = {v: x[origin] if batched else x for v, x in before.items() if v in stage.outputs}

        def operands(index: Any) -> list[Any]:
            fixed = {place: jnp.asarray(x)[index] for place, x in cast.among(cast.shared, "xs").items()}
            own = {place: x[origin, index] for place, x in cast.among(cast.random, "xs").items()}
            known = {**shared, **own_values, **fixed, **own}
            return [known[place] for place in range(len(stage.moving))]

        return retained.ahead_in_loop(stage, operands, time, passing)

    return each(one, held, batched=batched)


def _stand(particles: Particle, state: Any, how: Sweep, name: str) -> None:
    """Record where each particle stands, where somebody asks."""
    if how.standing:
        with scope.under(name):
            deterministic("standing", {"state": state, "weight": particles.log_weight})


def _taken(x: Any, origin: Any, how: Sweep) -> Any:
    return x[origin] if how.batched else x
