"""A particle filter that is one value of a larger algorithm: started, run step by step, or run afresh up to a time.

    filtered(program, place) = step^place . start        stepped = advance . hoist_first (resample)

It filters a program *given parameters*: their values are known and not scored, and what depends on them alone is
computed once for all particles. Every coin flip is a `sample` site. Law: the sum of a filter's weights is an unbiased
estimate of the evidence of the advances run (`evidence_of`), and it stays so when the filter goes on.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from ppl.errors import MeasureError
from ppl.numerics.weights import log_sum_exp, nan_to_zero_weight
from ppl.semantics import choices as ch
from ppl.semantics import jaxpr as jp
from ppl.semantics.blocks import Transformer
from ppl.semantics.language import sample
from ppl.semantics.looping import Cast, Marked, cast_of, each, loop_step, places_of, results_of
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Outcome, Position
from ppl.semantics.representations import Particle, Population, WeighSites
from ppl.semantics.rewrites import Rewrite, bind_again
from ppl.semantics.scope import under
from ppl.semantics.site import Site
from ppl.semantics.stages import Environment, Loop, Segment, Stage, plan_of, shared_values


class Filter(NamedTuple):
    """A particle filter under way.

    Attributes:
        particles: Values (inside a loop: what moves on, and each particle's origin) and log weights (nats).
        carried: Inside a loop, what all particles carry.
        xs: Inside a loop, its random inputs by step.
        past: Inside a loop, what is read after it.
    """

    particles: Particle
    carried: dict[int, Any]
    xs: dict[int, Any]
    past: tuple[Any, ...]


@dataclass(frozen=True)
class Inner:
    """How a filter runs: its number of particles, and the transformation before each stage that scores."""

    n: int
    before: Transformer


class Known(Rewrite):
    """Parameters are values and score nothing; nothing is recorded."""

    def site(self, node: Any, read: Any) -> Any:
        """The known value, or the choice as it is."""
        return bind_again(node) if read is None else read

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """Nobody reads it."""
        del site, value, where
        return Outcome(None, ())


def given(program: Program, parameters: Choices) -> Program:
    """The program at known values of parameters, which are not scored; it returns nothing."""
    return Program.of(_given, (program, parameters))


def _given(program: Program, parameters: Choices) -> None:
    program.rewrite(Known(), ch.nest(parameters, program.staged))


def stages_of(target: Program) -> tuple[Stage, ...]:
    """The stages up to the last that scores.

    Raises:
        MeasureError: what a loop stacks up is scored later, so that whole paths would have to be kept.
    """
    stages = plan_of(target).stages
    last = max((i for i, stage in enumerate(stages) if isinstance(stage, Loop) or stage.scores), default=-1)
    stacking = [stage for stage in stages[:last] if isinstance(stage, Loop) and stage.stacks]
    if stacking:
        raise MeasureError(
            f"An observation or factor reads all values that the loop over {sorted(stacking[0].addresses)} stacks up.\n"
            "Expected: scores of a nested filter that read carried values alone: its particles do not keep their "
            "paths.\nFix: carry what the score needs (a running sum, say), or use ppl.PMMH."
        )
    return stages[: last + 1]


def evidence_of(state: Filter) -> Any:
    """The log evidence so far (nats)."""
    return log_sum_exp(state.particles.log_weight)


def started(inner: Inner) -> Filter:
    """A filter before its first stage."""
    log_weight = jnp.full((inner.n,), -jnp.log(float(inner.n)), jnp.result_type(float))
    return Filter(Particle(Marked((), (), ()), log_weight), {}, {}, ())


def entered(target: Program, state: Filter, number: int) -> Filter:
    """Before the first step of a stage; straight-line code needs nothing."""
    stage = plan_of(target).stages[number]
    if isinstance(stage, Segment):
        return state
    particles = state.particles
    cast = cast_of(stage, particles, shared_values(target), batched=True)
    xs = cast.among(cast.random, "xs")
    origin = places_of(particles) if xs or stage.passing else ()
    past = particles.value.value if stage.passing else ()
    return Filter(_with(particles, (cast.layer, origin)), cast.among(cast.shared, "carry"), xs, past)


def stepped(target: Program, state: Filter, index: Any, number: int, inner: Inner) -> Filter:
    """One advance: resample, then run the stage, or step `index` (in the order of the run) of the loop."""
    stage, shared = plan_of(target).stages[number], shared_values(target)
    if isinstance(stage, Segment):
        before = _again(state.particles, inner) if stage.scores else state.particles
        return state._replace(particles=_clean(_segment(stage, before, shared)))
    cast, time = Cast(stage, _shared_operands(stage, shared), {}), stage.time(index)
    inputs = {place: x[time] for place, x in cast.among(cast.shared, "xs").items()}
    values = {**cast.among(cast.shared, "consts"), **state.carried, **inputs}
    layer = _again(state.particles, inner), state.xs
    carried, particles, *_ = loop_step(stage, time, values, layer, batched=True)
    return state._replace(particles=_clean(particles), carried=carried)


def left(target: Program, state: Filter, number: int) -> Filter:
    """After the last step of a stage."""
    stage, particles = plan_of(target).stages[number], state.particles
    if isinstance(stage, Segment):
        return state
    moving, origin = particles.value.value
    blanks = [None] * (len(stage.equation.outvars) - stage.loop.num_carry)
    results = results_of(stage, {**state.carried, **moving}, blanks, particles.log_weight.shape[0])
    before = dict(zip(stage.inputs, state.past, strict=False))
    found = tuple(results[v] if v in results else before[v][origin] for v in stage.outputs)
    return Filter(_with(particles, found), {}, {}, ())


def filtered(target: Program, steps: Any, number: int, inner: Inner) -> Filter:
    """A fresh filter after `steps` advances of a stage and all stages before it: what it costs grows with `steps`.

    Args:
        target: The program at known parameters.
        steps: Advances of the stage; traced, or a number (then its loop can be enumerated).
        number: The stage.
        inner: How to run.
    """
    state, stages = started(inner), plan_of(target).stages
    for place in range(number):
        state = left(target, _through(target, state, stages[place].length, place, inner), place)
    return _through(target, state, steps, number, inner)


def _through(target: Program, state: Filter, steps: Any, number: int, inner: Inner) -> Filter:
    with under(f"stage {number}"):
        state = entered(target, state, number)
        if isinstance(plan_of(target).stages[number], Segment):
            return stepped(target, state, 0, number, inner)
        return lax.fori_loop(0, steps, lambda i, s: stepped(target, s, i, number, inner), state)


def _with(particles: Particle, value: Any) -> Particle:
    return particles._replace(value=particles.value._replace(value=value))


def _clean(particles: Particle) -> Particle:
    return particles._replace(log_weight=nan_to_zero_weight(particles.log_weight))


def _again(particles: Particle, inner: Inner) -> Particle:
    layer = Population(Program.of(_particles, (particles,)), inner.n)
    return sample("again", inner.before(layer).program)


def _particles(particles: Particle) -> Particle:
    return particles


def _segment(stage: Segment, particles: Particle, shared: Environment) -> Particle:
    def step(particle: Particle) -> Particle:
        values, log_weight = stage.run(particle.value.value, shared, WeighSites())
        return Particle(particle.value._replace(value=values), particle.log_weight + log_weight)

    return each(step, particles, batched=True)


def _shared_operands(stage: Loop, shared: Environment) -> dict[int, Any]:
    """The operands that all particles share, by place."""
    pairs = enumerate(zip(stage.equation.invars, stage.moving, strict=True))
    return {place: jp.read(shared, atom) for place, (atom, moves) in pairs if not moves}
