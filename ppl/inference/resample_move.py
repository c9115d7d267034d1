r"""`ppl.ResampleMove`: particles that carry their choices, and are moved by any kernel after each resampling.

    marginal . finish . (advance . hoist_first (kernel^m . resample))^k . spawn

Before advance t a particle is a run of which t advances count; the kernel moves its choices and leaves the partial
posterior `up_to(program, t)` invariant, so that copies part again. For static parameters and a series of data this is
IBIS: Chopin, *A sequential particle filter method for static models* (Biometrika 2002); Gilks and Berzuini, *Following
a moving target* (JRSS B 2001). Law: E[Z] and E[sum of w f] are exact for every number of particles where particles are
moved every time. Moved only when weights are poor, they are biased by O(1/n): a kernel leaves the partial posterior
invariant, but not the part of it where weights happen to be poor. A move and an advance both cost a whole run of the
program, so that k observations in a loop cost O(k^2).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from ppl.distributions.drawn import law_of_draws
from ppl.errors import DegenerateWeightsError
from ppl.inference.combinators import repeat
from ppl.inference.drawing import draw
from ppl.inference.genealogy import log_evidence_error
from ppl.inference.kernels import KernelMaker, State
from ppl.inference.mcmc import finished
from ppl.inference.method import CHAIN_SETTINGS, Settings, positive, refuse
from ppl.inference.partial import Clock, clock_of, up_to
from ppl.inference.posterior import Evidence, Posterior
from ppl.inference.trace_mh import trace_mh_kernel
from ppl.numerics.weights import effective_sample_size, log_sum_exp, nan_to_zero_weight
from ppl.semantics import choices as ch
from ppl.semantics.blocks import Transformer, resample
from ppl.semantics.lanes import vmap
from ppl.semantics.language import sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Outcome, Position, SampleSite
from ppl.semantics.representations import Particle, Population, layer_of
from ppl.semantics.rewrites import Rewrite, bind_again
from ppl.semantics.scoring import log_ratio, total_log_prob
from ppl.semantics.site import Site
from ppl.semantics.stages import Loop, plan_of
from ppl.typing import PRNGKey


class Window(NamedTuple):
    """The advances from `first` to `stop - 1`: the last of them scores."""

    first: Any
    stop: Any


def windows_of(program: Program) -> Window:
    """The windows of a program in a row: as many as it has scoring advances, at least one."""
    plan = plan_of(program)
    scoring = [
        start + step
        for stage, start in zip(plan.stages, plan.starts, strict=True)
        if isinstance(stage, Loop) or stage.scores
        for step in range(stage.length)
    ]
    stops = [*(number + 1 for number in scoring[:-1]), plan.length]
    return Window(jnp.array([0, *stops[:-1]], jnp.int32), jnp.array(stops, jnp.int32))


class Extend(Rewrite):
    """Keep the choices before a window, draw the others; the total is the log weight of the window (nats)."""

    def __init__(self, clock: Clock, window: Window) -> None:
        self.clock, self.window = clock, window

    def zero(self) -> Any:
        """Weight one."""
        return jnp.zeros((), jnp.result_type(float))

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Keep or draw a choice; weigh an observation."""
        number = self.clock.advance(node.address, where)
        if node.observed is not None:
            return Outcome(node.observed, self._counted(number, total_log_prob(node.measure, node.observed)))
        law = law_of_draws(node.measure)
        fresh = bind_again(node._replace(measure=law))
        value = jax.tree.map(lambda old, new: jnp.where(number < self.window.first, old, new), read, fresh)
        excess = self.zero() if law is node.measure else self._counted(number, log_ratio(node.measure, law, value))
        return Outcome(value, excess, value)

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """A factor weighs."""
        return Outcome(None, self._counted(self.clock.advance(site.address, where), jnp.sum(log_weight)))

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """Recorded when all is done."""
        del site, value, where
        return Outcome(None, self.zero())

    def _counted(self, number: Any, log_weight: Any) -> Any:
        inside = (number >= self.window.first) & (number < self.window.stop)
        return jnp.where(inside, log_weight, 0.0).astype(jnp.result_type(float))


class Walker(NamedTuple):
    """A particle's choices and its first ancestor."""

    state: State
    eve: Any


@dataclass(frozen=True)
class Setup:
    """What is fixed about a run: how many, the resampling, when (None: always), the kernel and what it targets."""

    particles: int
    again: Transformer
    threshold: float | None
    kernel: KernelMaker
    target: Callable[[Program, Any], Program] = up_to


class Seen(NamedTuple):
    """After an advance: log evidence (nats), effective sample size, whether particles were renewed before it."""

    log_evidence: Any
    ess: Any
    renewed: Any


def resample_moved(program: Program, setup: Setup) -> Population:
    """The algorithm as one program: a population of `Walker`s, with what was `Seen` by advance beside it."""
    return Population(Program.of(_particles_of, (_whole(program, setup),)), setup.particles)


def _particles_of(whole: Program) -> Particle:
    return sample("run", whole)[0]


def _whole(program: Program, setup: Setup) -> Program:
    return Program.of(_resample_moved, (program,), {"setup": setup})


def _resample_moved(program: Program, setup: Setup) -> tuple[Particle, Seen]:
    windows = windows_of(program)
    first, others = jax.tree.map(lambda x: x[0], windows), jax.tree.map(lambda x: x[1:], windows)
    particles = sample("start", Program.of(_extended, (program, _blank(program, setup), first)))

    def step(particles: Particle, window: Window) -> tuple[Particle, Seen]:
        particles, renewed = _renewed(program, particles, window.first, setup)
        particles = sample("advance", Program.of(_extended, (program, particles, window)))
        return particles, _seen(particles, renewed)

    seen = _seen(particles, jnp.zeros((), bool))
    particles, later = lax.scan(step, particles, others)
    return particles, jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), seen, later)


def _seen(particles: Particle, renewed: Any) -> Seen:
    return Seen(log_sum_exp(particles.log_weight), effective_sample_size(particles.log_weight), renewed)


def _blank(program: Program, setup: Setup) -> Particle:
    """Particles that have chosen nothing yet, each of weight 1/n."""
    n = setup.particles
    shapes = jax.eval_shape(lambda: program.simulate(jax.random.key(0)))
    zeros = jax.tree.map(lambda x: jnp.zeros((n, *x.shape), x.dtype), State(shapes.choices, shapes.masks))
    log_weight = jnp.full((n,), -jnp.log(float(n)), jnp.result_type(float))
    return Particle(Walker(zeros, jnp.arange(n, dtype=jnp.int32)), log_weight)


def _extended(program: Program, particles: Particle, window: Window) -> Particle:
    """Run every particle through a window: the choices before it stay, those from it on are drawn."""
    staged = program.staged
    handler = Extend(clock_of(plan_of(program)), window)

    def one(particle: Particle) -> Particle:
        state = particle.value.state
        _, result = program.run(handler, ch.nest(state.choices, staged))
        choices = ch.flatten(result.writes, staged, ("latent",))
        state = State(choices, ch.spread(result.masks, staged))
        log_weight = nan_to_zero_weight(particle.log_weight + result.total)
        return Particle(particle.value._replace(state=state), log_weight)

    return vmap(one)(particles)


def _renewed(program: Program, particles: Particle, steps: Any, setup: Setup) -> tuple[Particle, Any]:
    """Resample and move where the effective sample size is low."""

    def renew(particles: Particle) -> Particle:
        particles = sample("again", setup.again(layer_of(particles)).program)
        kernel = setup.kernel(setup.target(program, steps))
        states = vmap(lambda state: sample("move", kernel(state)), axis_size=setup.particles)(particles.value.state)
        return particles._replace(value=particles.value._replace(state=states))

    if setup.threshold is None:
        return renew(particles), jnp.ones((), bool)
    poor = effective_sample_size(particles.log_weight) < setup.threshold * setup.particles
    return lax.cond(poor, renew, lambda particles: particles, particles), poor


# --- the method -------------------------------------------------------------------------------------------------------


class MoveHistory(NamedTuple):
    """What a run saw, one entry an observation or factor.

    Attributes:
        log_evidence: Log evidence of the observations so far (nats).
        ess: Effective sample size after it.
        resampled: Whether particles were resampled and moved before it.
        acceptance: Share of accepted moves before it; NaN where there were none, or the kernel records none.
    """

    log_evidence: Float[np.ndarray, "advances"]
    ess: Float[np.ndarray, "advances"]
    resampled: Bool[np.ndarray, "advances"]
    acceptance: Float[np.ndarray, "advances"]


@dataclass(frozen=True)
class ResampleMove:
    """Sequential Monte Carlo in which particles are moved by a kernel after each resampling.

    Args:
        particles: Number of particles.
        kernel: Makes a kernel of a program, such as `ppl.inference.random_walk(0.3, "theta")`; hashable.
        moves: How often each particle is moved.
        threshold: Resample and move where the effective sample size is below this fraction of the particles; None:
            before every observation, which alone is unbiased.
        resampling: The scheme: see `ppl.resample`.

    `posterior.history` has evidence, effective sample size and acceptance by observation.

    Examples:
        >>> import jax, jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> from ppl.inference import random_walk
        >>> @ppl.model
        ... def coins(ys):
        ...     p = ppl.sample("p", dist.Beta(2.0, 2.0))
        ...     jax.lax.scan(lambda _, y: (None, ppl.sample("y", dist.Bernoulli(p), obs=y)), None, ys)
        >>> posterior = ppl.infer(coins(jnp.array([1, 1, 0, 1])), ResampleMove(200, random_walk(0.5)), key=0)
        >>> posterior.draws["p"].shape, posterior.history.ess.shape
        ((1, 200), (4,))
    """

    particles: int = 1000
    kernel: KernelMaker = trace_mh_kernel
    moves: int = 1
    threshold: float | None = 0.5
    resampling: str = "systematic"

    def __post_init__(self) -> None:
        positive("particles", self.particles)
        positive("moves", self.moves)
        resample(self.resampling)

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Run once."""
        refuse(settings, CHAIN_SETTINGS, "ppl.ResampleMove", "Give it the number: ppl.ResampleMove(1000).")
        ch.refuse_unbounded(program.staged, "kernel")
        kernel = self.kernel if self.moves == 1 else repeat(self.kernel, self.moves)
        setup = Setup(self.particles, resample(self.resampling), self.threshold, kernel)
        particles, seen, accepted = jax.device_get(_run(program, key, setup))
        past = MoveHistory(seen.log_evidence, seen.ess, seen.renewed, _acceptance(seen, accepted))
        if np.isneginf(past.log_evidence).any():
            raise _degenerate(self, program, int(np.argmax(np.isneginf(past.log_evidence))))
        return _posterior(self, program, particles, past)


@partial(jax.jit, static_argnums=2)
def _run(program: Program, key: PRNGKey, setup: Setup) -> tuple[Particle, Seen, Any]:
    drawn = draw(_whole(program, setup), key)
    particles, seen = drawn.value
    accepted = [x for address, x in drawn.writes.items() if address.endswith("accepted")]
    shares = [jnp.mean(x.astype(float).reshape(x.shape[0], -1), axis=1) for x in accepted]
    return particles, seen, jnp.stack(shares) if shares else None


def _acceptance(seen: Seen, accepted: Float[Array | np.ndarray, "kernels moves"] | None) -> np.ndarray:
    found = np.full(seen.ess.shape, np.nan)
    if accepted is not None:
        found[1:] = np.where(seen.renewed[1:], accepted.mean(axis=0), np.nan)
    return found


def _posterior(method: ResampleMove, program: Program, particles: Particle, past: MoveHistory) -> Posterior:
    log_weights, walker = particles.log_weight, particles.value
    estimate, error = log_evidence_error(
        jnp.asarray(log_weights), jnp.asarray(walker.eve), jnp.asarray(past.resampled), method.resampling
    )
    moved = past.acceptance[~np.isnan(past.acceptance)]
    return Posterior(
        **finished(program, jax.tree.map(lambda x: x[None], walker.state), None, (1, method.particles)),
        log_weights=log_weights[None],
        log_evidence=Evidence(float(estimate), float(error)),
        diagnostics={
            "ess": float(past.ess[-1]),
            "least_ess": float(np.min(past.ess)),
            "resamplings": float(np.sum(past.resampled)),
            "acceptance": float(np.mean(moved)) if moved.size else float("nan"),
        },
        program=program,
        method="ResampleMove",
        history=past,
    )


def _degenerate(method: ResampleMove, program: Program, advance: int) -> DegenerateWeightsError:
    return DegenerateWeightsError(
        f"None of the {method.particles} particles of ppl.ResampleMove on {program.name!r} has a positive weight: all "
        f"were lost at observation {advance}.\n"
        "Likely causes: an observation outside its support, a factor of minus infinity or NaN, particles that never "
        "come near the data.\nFix: check that observation, use more particles, or more moves."
    )
