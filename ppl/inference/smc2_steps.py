r"""The steps of SMC^2: particles of parameters, each with a particle filter of its own.

    SMC^2 = (advance . hoist_first (pmmh^m . resample))^k . spawn

$$w_t^i = w_{t-1}^i \, \hat Z_t(\theta^i) / \hat Z_{t-1}(\theta^i), \qquad
\alpha = \min\left(1, \frac{p(\theta') \hat Z_t(\theta')}{p(\theta) \hat Z_t(\theta)}\right)$$

A particle advances by one advance of its filter and is weighed by the growth of the filter's evidence; PMMH moves
propose parameters with a fresh filter over what has been seen. Law: with a fixed proposal, E[Z] and E[sum of w f] are
exact for every number of particles, since filter and parameters together are a target of exact marginals. Each step is
a program of its own, which the laws enumerate and `ppl.SMC2` draws. Chopin, Jacob and Papaspiliopoulos, *SMC^2*
(JRSS B 2013), sections 3.1 and 3.6 (the exchange of filters).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ppl.inference.inner_filter import (
    Filter,
    Inner,
    entered,
    evidence_of,
    filtered,
    given,
    left,
    stages_of,
    started,
    stepped,
)
from ppl.inference.kernels import State
from ppl.inference.metropolis import LogRatio, Point, Ratio, settle
from ppl.inference.parameter_prior import drawn_parameters, located, proposed
from ppl.numerics.weights import log_sum_exp
from ppl.semantics.blocks import resampled
from ppl.semantics.lanes import vmap
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.semantics.representations import Particle, Population
from ppl.semantics.scope import under


class Cloud(NamedTuple):
    """A particle of the outer population: parameters, their filter, and its first ancestor."""

    parameters: Choices
    filter: Filter
    eve: Any


def growth(before: Any, after: Any) -> Any:
    """The log of the incremental weight: how much a filter's log evidence grew; a dead one stays dead."""
    return jnp.where(before > -jnp.inf, after - before, -jnp.inf)


@dataclass(frozen=True)
class Setup:
    """What is fixed about a run.

    Attributes:
        names: The parameters.
        particles: How many particles of parameters.
        inner: How filters run.
        moves: PMMH moves at each rejuvenation.
        scheme: How parameters are resampled.
        increment: From the log evidence before and after an advance to the log weight (another than `growth` is wrong).
        log_ratio: As in `ppl.inference.metropolis.settle`.
    """

    names: tuple[str, ...]
    particles: int
    inner: Inner
    moves: int = 5
    scheme: str = "systematic"
    increment: Callable[[Any, Any], Any] = growth
    log_ratio: LogRatio = sum


def spawned(program: Program, setup: Setup) -> Particle:
    """Parameters from the prior, each with a filter that has seen nothing, and weight 1/n."""

    def one() -> tuple[Choices, Any]:
        return drawn_parameters(program, setup.names)

    n = setup.particles
    parameters, excess = vmap(one, axis_size=n)()
    filters = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), started(setup.inner))
    return Particle(Cloud(parameters, filters, jnp.arange(n, dtype=jnp.int32)), excess - jnp.log(float(n)))


def opened(program: Program, particles: Particle, number: int) -> Particle:
    """From the end of the stage before to the start of a stage."""

    def one(cloud: Cloud) -> Cloud:
        target, state = given(program, cloud.parameters), cloud.filter
        state = left(target, state, number - 1) if number else state
        return cloud._replace(filter=entered(target, state, number))

    return particles._replace(value=jax.vmap(one)(particles.value))


def advanced(program: Program, particles: Particle, index: Any, number: int, setup: Setup) -> Particle:
    """One advance of every filter: step `index` of a stage; weights grow by the filters' evidence."""

    def one(particle: Particle) -> Particle:
        cloud = particle.value
        state = stepped(given(program, cloud.parameters), cloud.filter, index, number, setup.inner)
        increment = setup.increment(evidence_of(cloud.filter), evidence_of(state))
        return Particle(cloud._replace(filter=state), particle.log_weight + increment)

    return vmap(one)(particles)


def rejuvenated(program: Program, particles: Particle, where: Any, number: int, setup: Setup) -> Particle:
    """Resample parameters together with their filters, then move each by PMMH.

    Args:
        program: The program.
        particles: After `where[0]` advances of stage `number`.
        where: That number, and the Cholesky factor of the proposal (see `spread_of`).
        number: The stage.
        setup: How to move.
    """

    def move(clouds: Cloud, _: None) -> tuple[Cloud, None]:
        return vmap(lambda cloud: _pmmh(program, cloud, where, number, setup))(clouds), None

    particles = resampled(particles, setup.scheme)
    return particles._replace(value=lax.scan(move, particles.value, None, length=setup.moves)[0])


def _pmmh(program: Program, cloud: Cloud, where: Any, number: int, setup: Setup) -> Cloud:
    steps, spread = where
    old = located(program, cloud.parameters)
    new = proposed(program, old, spread)
    fresh = filtered(given(program, new.values), steps, number, setup.inner)
    before, after = evidence_of(cloud.filter), evidence_of(fresh)
    ratio = Ratio(new.log_density - old.log_density, -before, after)
    here = Point(State({"cloud": cloud}, {}), old.log_density + before)
    there = Point(State({"cloud": Cloud(new.values, fresh, cloud.eve)}, {}), new.log_density + after)
    return settle(here, there, ratio, setup.log_ratio).choices["cloud"]


def exchanged(program: Program, particles: Particle, steps: Any, number: int, setup: Setup) -> Particle:
    """Give every particle a fresh filter of another size; weights change by the ratio of the filters' evidences."""

    def one(particle: Particle) -> Particle:
        cloud = particle.value
        fresh = filtered(given(program, cloud.parameters), steps, number, setup.inner)
        increment = growth(evidence_of(cloud.filter), evidence_of(fresh))
        return Particle(cloud._replace(filter=fresh), particle.log_weight + increment)

    return vmap(one)(particles)


def target_stages(program: Program, names: tuple[str, ...]) -> Any:
    """The stages of the program at known parameters, up to the last that scores."""
    known = {name: program.staged.infos[name] for name in names}
    values = {name: jnp.zeros(info.shape, info.dtype) for name, info in known.items()}
    return stages_of(given(program, values))


# --- the whole algorithm ----------------------------------------------------------------------------------------------


def smc2(program: Program, setup: Setup, rejuvenate: tuple[int, ...] = (), spread: Any = None) -> Population:
    """SMC^2 as one program, with rejuvenation after the advances of these numbers: a population of `Cloud`s.

    `ppl.SMC2` runs the same steps one by one, and decides by the effective sample size when to rejuvenate.
    """
    spread = jnp.zeros((0, 0)) if spread is None else spread
    whole = Program.of(_smc2, (program, spread), {"setup": setup, "rejuvenate": rejuvenate})
    return Population(whole, setup.particles)


def _smc2(program: Program, spread: Any, setup: Setup, rejuvenate: tuple[int, ...]) -> Particle:
    particles, done = spawned(program, setup), 0
    for number, stage in enumerate(target_stages(program, setup.names)):
        particles = opened(program, particles, number)
        for index in range(stage.length):
            with under(f"advance {done}"):
                particles = advanced(program, particles, jnp.int32(index), number, setup)
            done += 1
            if done in rejuvenate:
                with under(f"rejuvenation {done}"):
                    particles = rejuvenated(program, particles, (index + 1, spread), number, setup)
    return particles


def log_evidence(particles: Particle) -> Any:
    """The log evidence of the advances run (nats)."""
    return log_sum_exp(particles.log_weight)
