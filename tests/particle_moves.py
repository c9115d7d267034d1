"""Targets and mutants of particle MCMC: tiny hidden Markov models, and kernels with one mistake each."""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.inference.conditional_smc import ConditionalSMC, conditional_step
from ppl.inference.kernels import State
from ppl.inference.metropolis import Ratio, settle
from ppl.inference.particle_gibbs import ParticleGibbsMove
from ppl.inference.particle_runs import one_path, run_of
from ppl.inference.pmmh import PMMHMove, pmmh, pmmh_step, proposed
from ppl.inference.static_parameters import Split
from ppl.numerics.weights import effective_sample_size
from ppl.semantics import choices as ch
from ppl.semantics import looping
from ppl.semantics.conditional_sweep import ConditionalResample, conditional_resample, conditional_sweep
from ppl.semantics.language import sample
from ppl.semantics.representations import Population
from ppl.semantics.rewrites import Rewrite

# --- targets ----------------------------------------------------------------------------------------------------------


@ppl.model
def chain(ys: Any) -> Any:
    """A hidden Markov chain of two states in a loop."""

    def step(x: Any, y: Any) -> Any:
        x = ppl.sample("x", dist.Bernoulli(jnp.array([0.375, 0.75])[x]))
        ppl.sample("y", dist.Bernoulli(jnp.array([0.125, 0.8])[x]), obs=y)
        return x, None

    return lax.scan(step, jnp.zeros((), int), ys)[0]


@ppl.model
def counting(ys: Any) -> Any:
    """What a step sees depends on all steps before; a start is drawn and seen again behind the loop."""
    start = ppl.sample("start", dist.Bernoulli(0.375))

    def step(total: Any, y: Any) -> Any:
        x = ppl.sample("x", dist.Bernoulli(jnp.array([0.375, 0.75, 0.625, 0.25])[total]))
        ppl.sample("y", dist.Bernoulli(jnp.array([0.125, 0.8, 0.375, 0.9])[total + x]), obs=y)
        return total + x, None

    total, _ = lax.scan(step, start, ys)
    ppl.sample("end", dist.Bernoulli(jnp.array([[0.25, 0.5, 0.75, 0.9], [0.8, 0.3, 0.6, 0.1]])[start, total]), obs=1)
    return total


@ppl.model
def straight(ys: Any) -> Any:
    """Straight-line code, one choice of it in a branch; observations that depend on all choices before."""
    a = ppl.sample("a", dist.Bernoulli(0.375))
    ppl.sample("y0", dist.Bernoulli(jnp.array([0.25, 0.8])[a]), obs=ys[0])
    b = lax.cond(a == 1, lambda: ppl.sample("b", dist.Bernoulli(0.75)), lambda: jnp.zeros((), int))
    ppl.sample("y1", dist.Bernoulli(jnp.array([[0.3, 0.5], [0.9, 0.125]])[a, b]), obs=ys[1])
    return a + 2 * b


@ppl.model
def switching(ys: Any) -> Any:
    """A parameter with three values, and a chain that it governs."""
    s = ppl.sample("s", dist.Categorical(jnp.array([0.5, 0.3, 0.2])))
    ppl.sample("seen", dist.Bernoulli(jnp.array([0.3, 0.6, 0.9])[s]), obs=1)

    def step(x: Any, y: Any) -> Any:
        x = ppl.sample("x", dist.Bernoulli(jnp.array([[0.25, 0.5], [0.4, 0.7], [0.1, 0.9]])[s, x]))
        ppl.sample("y", dist.Bernoulli(jnp.where(x == 1, 0.8, 0.3)), obs=y)
        return x, None

    return lax.scan(step, jnp.zeros((), int), ys)[0]


@ppl.model
def drifting(steps: int) -> Any:
    """A linear-Gaussian model with an unknown drift and an unknown spread; `y` are the data."""
    drift = ppl.sample("drift", dist.Normal(0.5, 1.0))
    spread = ppl.sample("spread", dist.LogNormal(0.0, 0.5))

    def step(x: Any, _: None) -> Any:
        x = ppl.sample("x", dist.Normal(0.75 * x + drift, spread))
        return x, ppl.sample("y", dist.Normal(x, 0.5))

    return lax.scan(step, jnp.zeros(()), None, length=steps)[1]


def drifting_target() -> ppl.Program:
    """Three steps."""
    return drifting(3)


def chain_target() -> ppl.Program:
    """Two steps."""
    return chain(jnp.array([1, 0]))


def short_chain_target() -> ppl.Program:
    """One step."""
    return chain(jnp.array([1]))


def switching_target() -> ppl.Program:
    """One step."""
    return switching(jnp.array([1]))


# --- mutants of conditional SMC ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """A wrong body of conditional SMC as a maker."""

    body: Any
    move: ConditionalSMC

    def __call__(self, program: ppl.Program) -> Any:
        """The kernel."""
        return lambda state: ppl.Program.of(self.body, (program, state, self.move))


def without_retained(particles: int) -> Mutant:
    """An unconditional run whose path is taken whatever it is."""
    return Mutant(_unconditional, ConditionalSMC(particles, ppl.resample("multinomial")))


def _unconditional(program: ppl.Program, state: State, move: ConditionalSMC) -> State:
    del state
    return one_path(program, run_of(conditional_sweep(program, {}, move.particles, move.resampling), "run"), "path")


def gibbs_without_retained(particles: int) -> ParticleGibbsMove:
    """Particle Gibbs by such runs."""
    return ParticleGibbsMove(without_retained(particles), None, None)


def wrong_resampling(particles: int, resampling: Any, backward: Any = None) -> ConditionalSMC:
    """Conditional SMC with another resampling."""
    return ConditionalSMC(particles, resampling, backward)


def anew(move: ConditionalSMC) -> Mutant:
    """Conditional SMC as another function, so that the staged one is not taken from the cache."""
    return Mutant(lambda program, state, move: conditional_step(program, state, move), move)


@dataclass(frozen=True)
class Adaptive:
    """Resampling where the effective sample size is low; `of` says of which weights."""

    threshold: float
    of: str

    def __call__(self, population: Population) -> Population:
        """Resample or not."""
        return Population(ppl.Program.of(_adaptive, (population.program, self)), population.n)


def _adaptive(program: ppl.Program, how: Adaptive) -> Any:
    particles = sample("before", program)
    others = how.of == "the others"
    log_weights = particles.log_weight[1:] if others else particles.log_weight
    poor = effective_sample_size(log_weights) < how.threshold * len(log_weights)
    again = conditional_resample("multinomial")

    def resampled(p: Any) -> Any:
        return again(Population(ppl.Program.of(_same, (p,)), len(particles.log_weight))).program.rewrite(Rewrite())

    return lax.cond(poor, resampled, lambda p: p, particles)


def _same(particles: Any) -> Any:
    return particles


@dataclass(frozen=True)
class Replaying(ConditionalResample):
    """Conditional resampling, by another name: the mutant is in how its children go on."""


def replaying(particles: int) -> Mutant:
    """Copies of the retained particle replay its choices instead of drawing their own."""
    return Mutant(_replaying, ConditionalSMC(particles, Replaying("multinomial")))


def _replaying(program: ppl.Program, state: State, move: ConditionalSMC) -> State:
    kept, choices = looping.places_of, ch.nest(state.choices, program.staged)
    looping.places_of = lambda particles: particles.value.index
    try:
        drawn = run_of(conditional_sweep(program, choices, move.particles, move.resampling), "run")
    finally:
        looping.places_of = kept
    again = drawn.writes["stage 0/ancestors"] == 0
    values = jnp.where(again, choices["x"][:, None], drawn.writes["x"])
    return one_path(program, drawn._replace(writes={**drawn.writes, "x": values}), "path")


# --- mutants of PMMH --------------------------------------------------------------------------------------------------


def without_evidence(ratio: Any) -> Any:
    """The proposal's ratio alone."""
    return ratio.forward + ratio.backward


@dataclass(frozen=True)
class Wrong:
    """A wrong body of PMMH as a maker."""

    body: Any
    move: PMMHMove

    def __call__(self, program: ppl.Program) -> Any:
        """The kernel."""
        split = self.move(program).args[0]
        return lambda state: ppl.Program.of(self.body, (program, state, split))


def estimated_anew(program: ppl.Program, state: State, move: PMMHMove) -> State:
    """The evidence of the state at hand by a run that does not know its path."""
    split = Split(move.parameters or (), move.states or ())
    moved = move.propose(program, state.choices, split.parameters)
    new = proposed(program, State(moved.choices, state.masks), move, split)
    old = proposed(program, state, move, split, "again")
    ratio = Ratio(new.log_density - old.log_density, jnp.zeros(()), jnp.asarray(moved.log_ratio))
    plain = new._replace(state=new.state._replace(extra=()))
    return settle(old._replace(state=state), plain, ratio)


def dropping_evidence(program: ppl.Program, state: State, move: PMMHMove) -> State:
    """The evidence does not count."""
    return pmmh_step(program, state, move, without_evidence)


PMMH = pmmh(2, "s", 1.0, scheme="multinomial")
"""Two particles, a parameter that takes steps of -1, 0 and 1."""


@ppl.model
def by_coin(choices: Any) -> Any:
    """Propose a parameter that leans towards its neighbour above."""
    ppl.sample("s", dist.Categorical(jnp.array([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6], [0.5, 0.25, 0.25]])[choices["s"]]))


def named(move: PMMHMove, split: Split) -> PMMHMove:
    """The move with the addresses of its parameters and states."""
    return replace(move, parameters=split.parameters, states=split.states)


@ppl.model
def backwards(ys: Any) -> Any:
    """A chain that runs from the last observation to the first."""

    def step(x: Any, y: Any) -> Any:
        x = ppl.sample("x", dist.Bernoulli(jnp.array([0.375, 0.75])[x]))
        ppl.sample("y", dist.Bernoulli(jnp.array([0.125, 0.8])[x]), obs=y)
        return x, None

    return lax.scan(step, jnp.zeros((), int), ys, reverse=True)[0]
