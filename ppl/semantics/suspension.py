"""Suspended runs: a program cut at its observations and factors, so that particles can wait for each other there.

All particles of a layer are at the same stage (`ppl.semantics.stages`). `advance` runs one stage, and one step of a
loop; `sweep` runs all that are left, a transformation before each, with loops that stay loops. Laws:
finish . advance = finish; advancing at the end does nothing; sweep t = (advance . hoist_first t)^k.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp

from ppl.errors import MeasureError
from ppl.semantics.blocks import Transformer, compose, resample, spawn
from ppl.semantics.enumeration import DEFAULT_LIMIT
from ppl.semantics.finite import FiniteMeasure
from ppl.semantics.keeping import Keeper
from ppl.semantics.language import sample
from ppl.semantics.looping import each
from ppl.semantics.program import Program
from ppl.semantics.representations import Particle, Population, WeighSites, Weighted, meaning
from ppl.semantics.stages import Plan, outputs_of, plan_of, shared_values
from ppl.semantics.sweeping import Sweep, swept


@dataclass(frozen=True, eq=False)
class Suspended:
    """Runs of a program that wait after `position` advances; `layer` holds the random values that are needed later.

    `hooks` are transformations of the layer that are applied after every advance (`hoist`).
    """

    layer: Weighted | Population
    program: Program
    position: int = 0
    hooks: tuple[Transformer, ...] = ()

    @property
    def plan(self) -> Plan:
        """The stages of the program."""
        return plan_of(self.program)

    @property
    def advances(self) -> int:
        """How many advances there are from the start to the end."""
        return self.plan.length

    @property
    def finished(self) -> bool:
        """Whether no stage is left."""
        return self.position >= self.advances


def suspend(program: Program) -> Suspended:
    """A program stopped before its first stage."""
    return Suspended(Weighted(Program.of(_start)), program)


def _start() -> Particle:
    return Particle((), jnp.zeros((), jnp.result_type(float)))


def advance(times: int = 1) -> Transformer:
    """Run the next stage (`times` of them) of every particle; at the end it does nothing."""
    return Advance(times)


@dataclass(frozen=True)
class Advance:
    """What `advance` makes."""

    times: int = 1

    def __call__(self, suspended: Suspended) -> Suspended:
        """Advance."""
        for _ in range(self.times):
            suspended = _advanced(suspended)
        return suspended


def _advanced(suspended: Suspended) -> Suspended:
    if suspended.finished:
        return suspended
    layer, number = suspended.layer, suspended.position
    settings = {"number": number, "batched": isinstance(layer, Population)}
    layer = replace(layer, program=Program.of(_advance_layer, (layer.program, suspended.program), settings))
    for hook in suspended.hooks:
        layer = hook(layer)
    return replace(suspended, layer=layer, position=number + 1)


def _advance_layer(before: Program, program: Program, number: int, *, batched: bool) -> Particle:
    stage, shared = plan_of(program).step(number), shared_values(program)
    particles = sample("before", before)

    def step(particle: Particle) -> Particle:
        values, log_weight = stage.run(particle.value, shared, WeighSites())
        return Particle(values, particle.log_weight + log_weight)

    return each(step, particles, batched=batched)


def sweep(
    transformer: Transformer, *, ancestry: bool = True, families: bool = False, keeper: Keeper | None = None
) -> Transformer:
    """Run every stage that is left, with a transformation of the layer before each that scores.

    Means (advance . hoist_first transformer)^k for the k observations, factors and loop steps that are left, but a loop
    of the program stays a loop: what it costs to compile does not grow with the number of steps.

    Args:
        transformer: A transformation of layers that keeps their kind and their size, such as `resample()`; hashable.
        ancestry: Whether to record the ancestors.
        families: Whether to record what the particles' families tell of the evidence's error, `families`, in place of
            `eve` (`ppl.numerics.kinship`; populations alone).
        keeper: What to keep of every loop while it runs (`ppl.semantics.keeping`; populations alone).

    Returns:
        A transformer `Suspended -> Suspended` to the end. It records, under `stage k/`, the `log_evidence` and `ess`
        before the stage, the `ancestors` of each particle among those before the stage, and its `log_weight` after it;
        at the end, `log_evidence`, `ess`, and `eve`, each particle's ancestor at the start.

    Raises:
        MeasureError: the run is suspended inside a loop.
    """
    return Swept(transformer, ancestry, families, keeper)


@dataclass(frozen=True)
class Swept:
    """What `sweep` makes."""

    transformer: Transformer
    ancestry: bool = True
    families: bool = False
    keeper: Keeper | None = None

    def __call__(self, suspended: Suspended) -> Suspended:
        """Sweep."""
        if suspended.finished:
            return suspended
        starts = suspended.plan.starts
        if suspended.position not in starts:
            raise MeasureError(
                f"sweep was given a run of {suspended.program.name!r} that is suspended inside a loop, after "
                f"{suspended.position} advances.\nExpected: a run before a stage, after one of {starts} advances.\n"
                "Fix: advance to the end of the loop first."
            )
        layer, first = suspended.layer, starts.index(suspended.position)
        how = Sweep(self.transformer, suspended.hooks, type(layer), first, self.ancestry, self.families, self.keeper)
        layer = replace(layer, program=Program.of(swept, (layer.program, suspended.program), {"how": how}))
        return replace(suspended, layer=layer, position=suspended.advances)


def finish() -> Transformer:
    """Run every stage that is left: the layer of the program's values, `Weighted` or `Population`."""
    return _finish


def _finish(suspended: Suspended) -> Weighted | Population:
    while not suspended.finished:
        suspended = _advanced(suspended)
    layer = suspended.layer
    settings = {"batched": isinstance(layer, Population)}
    return replace(layer, program=Program.of(_finished, (layer.program, suspended.program), settings))


def _finished(before: Program, program: Program, *, batched: bool) -> Particle:
    shared = shared_values(program)

    def value(particle: Particle) -> Particle:
        return Particle(outputs_of(program, particle.value, shared), particle.log_weight)

    return each(value, sample("before", before), batched=batched)


def hoist_first(transformer: Transformer) -> Transformer:
    """Apply a transformation of layers to the layer at hand: `Suspended -> Suspended`."""
    return Hoisted(transformer, once=True)


def hoist(transformer: Transformer) -> Transformer:
    """Apply a transformation to the layer at hand and to the layer after every later advance."""
    return Hoisted(transformer, once=False)


@dataclass(frozen=True)
class Hoisted:
    """What `hoist` and `hoist_first` make."""

    transformer: Transformer
    once: bool

    def __call__(self, suspended: Suspended) -> Suspended:
        """Transform the layer."""
        hooks = suspended.hooks if self.once else (*suspended.hooks, self.transformer)
        return replace(suspended, layer=self.transformer(suspended.layer), hooks=hooks)


def smc(n: int, steps: int | None = None, scheme: str = "systematic", threshold: float | None = None) -> Transformer:
    """Sequential Monte Carlo: finish . (advance . hoist_first resample)^steps . hoist_first (spawn n).

    Args:
        n: Number of particles.
        steps: How many advances have resampling before them; by default all, and loops stay loops (`sweep`).
        scheme: That of `resample`.
        threshold: That of `resample`.
    """
    again = resample(scheme, threshold)
    middle = (sweep(again),) if steps is None else (compose(advance(), hoist_first(again)),) * steps
    return compose(finish(), *middle, hoist_first(spawn(n)))


@meaning.register
def _(representation: Suspended, limit: int = DEFAULT_LIMIT) -> FiniteMeasure:
    return meaning(finish()(representation), limit)
