r"""`ppl.SMC2`: sequential posteriors of parameters and evidence of state-space models, by particles within particles.

The steps are programs (`ppl.inference.smc2_steps`). Here they are compiled once each and run over time from the host:
advance; where the effective sample size of the parameters falls, resample and move. The proposal is a random walk in
R^n with the covariance of the weighted parameters; it, and when to move, are adapted to them, so that E[Z] is biased by
O(1/particles) (the steps by themselves are exact). A PMMH move at time t costs t steps of a filter; rejuvenations grow
rarer with t, as the posterior settles.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ppl.errors import DegenerateWeightsError
from ppl.inference.combinators import refuse_varying
from ppl.inference.drawing import draw
from ppl.inference.genealogy import log_evidence_error
from ppl.inference.inner_filter import Inner
from ppl.inference.method import CHAIN_SETTINGS, Settings, positive, refuse
from ppl.inference.parameter_prior import spread_of
from ppl.inference.posterior import Evidence, Posterior
from ppl.inference.progress import Progress, Reporter
from ppl.inference.smc2_steps import (
    Setup,
    advanced,
    exchanged,
    log_evidence,
    opened,
    rejuvenated,
    spawned,
    target_stages,
)
from ppl.inference.static_parameters import split_of
from ppl.numerics.weights import effective_sample_size, normalize_log_weights
from ppl.semantics.blocks import resample
from ppl.semantics.program import Program
from ppl.semantics.representations import Particle
from ppl.semantics.stages import Stage
from ppl.typing import PRNGKey

LOW_ACCEPTANCE = 0.1
"""With fewer moves accepted, the filters are doubled, where allowed."""


class SMC2History(NamedTuple):
    """What a run saw, advance by advance.

    Attributes:
        log_evidence: Log evidence of the observations so far (nats).
        ess: Effective sample size of the parameters after the advance, before they are resampled.
        rejuvenated: Whether they were resampled and moved after it.
        acceptance: Mean acceptance of the moves; NaN where there were none.
        inner: Particles of each filter.
    """

    log_evidence: Float[np.ndarray, "advances"]
    ess: Float[np.ndarray, "advances"]
    rejuvenated: Bool[np.ndarray, "advances"]
    acceptance: Float[np.ndarray, "advances"]
    inner: Int[np.ndarray, "advances"]


@dataclass(frozen=True)
class SMC2:
    """SMC^2: particles of parameters, each with a particle filter over the states.

    Args:
        particles: Particles of parameters.
        inner: Particles of each filter.
        parameters: Addresses or patterns of the parameters; by default the choices outside the loops that observe.
        moves: PMMH moves of each particle when parameters are resampled.
        threshold: Resample and move where the effective sample size is below this fraction of the particles.
        resampling: The scheme, for parameters and states.
        inner_threshold: Filters resample where their effective sample size is below this fraction; None: always.
        most_inner: Filters are doubled up to this size when fewer than a tenth of the moves are accepted.
        replicates: Independent runs: the chains of the posterior. Their spread gives the evidence's standard error;
            that of one run comes from its genealogy, which sees no further than the first ancestors that are left.

    Discrete parameters are proposed from their prior given those before them. `posterior.draws` are parameters, with
    `log_weights`; `posterior.history` is that of the first run.

    Examples:
        >>> import jax, jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def walk(ys):
        ...     scale = ppl.sample("scale", dist.LogNormal(0.0, 0.5))
        ...     def step(x, y):
        ...         x = ppl.sample("x", dist.Normal(x, scale))
        ...         ppl.sample("y", dist.Normal(x, 1.0), obs=y)
        ...         return x, None
        ...     jax.lax.scan(step, jnp.float32(0.0), ys)
        >>> posterior = ppl.infer(walk(jnp.array([1.0, 2.0, 3.0])), SMC2(50, 20), key=0)
        >>> posterior.draws["scale"].shape, posterior.history.log_evidence.shape
        ((1, 50), (3,))
    """

    particles: int = 500
    inner: int = 200
    parameters: tuple[str, ...] | None = None
    moves: int = 5
    threshold: float = 0.5
    resampling: str = "systematic"
    inner_threshold: float | None = 0.5
    most_inner: int | None = None
    replicates: int = 1

    def __post_init__(self) -> None:
        for name in ("particles", "inner", "moves", "replicates"):
            positive(name, getattr(self, name))
        resample(self.resampling, self.inner_threshold)
        if self.parameters is not None:
            names = (self.parameters,) if isinstance(self.parameters, str) else tuple(self.parameters)
            object.__setattr__(self, "parameters", names)

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Run over time, `replicates` times."""
        others = tuple(name for name in CHAIN_SETTINGS if name != "progress")
        refuse(settings, others, "ppl.SMC2", "Give it the numbers: ppl.SMC2(particles=500, inner=200, replicates=4).")
        names = split_of(program, self.parameters).parameters
        refuse_varying(program, names)
        setup = Setup(names, self.particles, self._inner(self.inner), self.moves, self.resampling)
        stages = target_stages(program, names)
        total = self.replicates * sum(stage.length for stage in stages)
        with Reporter(total, show=settings.progress) as reporter:
            what = Work(program, setup, stages, reporter)
            found = [_run(self, what, jax.random.fold_in(key, i)) for i in range(self.replicates)]
        return _posterior(self, program, found)

    def _inner(self, n: int) -> Inner:
        return Inner(n, resample(self.resampling, self.inner_threshold))


class Work(NamedTuple):
    """What a run works on."""

    program: Program
    setup: Setup
    stages: tuple[Stage, ...]
    reporter: Reporter


class Step(NamedTuple):
    """What is known after an advance; see `SMC2History`."""

    log_evidence: float
    ess: float
    rejuvenated: bool = False
    acceptance: float = float("nan")
    inner: int = 0


class Outcome(NamedTuple):
    """The end of a run."""

    particles: Particle
    history: SMC2History


def _run(method: SMC2, what: Work, key: PRNGKey) -> Outcome:
    program, setup, stages, reporter = what
    particles, steps = _spawn(program, key, setup), []
    last = len(stages) - 1
    for number, stage in enumerate(stages):
        particles = _open(program, particles, number)
        for index in range(stage.length):
            keys = jax.random.split(jax.random.fold_in(key, len(steps) + 1), 3)
            particles, log_z, ess = _advance(program, particles, keys[0], jnp.int32(index), number, setup)
            step = Step(float(log_z), float(ess), inner=setup.inner.n)
            if np.isneginf(step.log_evidence):
                raise _degenerate(method, program, len(steps))
            if step.ess < method.threshold * setup.particles and (number, index) != (last, stage.length - 1):
                place = jnp.int32(index + 1)
                particles, acceptance = _rejuvenate(program, particles, keys[1], place, number, setup)
                step = step._replace(rejuvenated=True, acceptance=float(acceptance))
                setup = _grown(method, setup, step)
                if setup.inner.n != step.inner:
                    particles = _exchange(program, particles, keys[2], place, number, setup)
            steps.append(step)
            reporter.add(Progress(1, phase=f"{setup.particles} x {setup.inner.n}"))
    return Outcome(particles, SMC2History(*(np.asarray(x) for x in zip(*steps, strict=True))))


def _grown(method: SMC2, setup: Setup, step: Step) -> Setup:
    """Filters twice as large, where too few moves are accepted."""
    size = 2 * setup.inner.n
    if method.most_inner is None or step.acceptance >= LOW_ACCEPTANCE or size > method.most_inner:
        return setup
    return replace(setup, inner=replace(setup.inner, n=size))


# --- compiled steps ---------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnums=2)
def _spawn(program: Program, key: PRNGKey, setup: Setup) -> Particle:
    return draw(Program.of(spawned, (program,), {"setup": setup}), key).value


@partial(jax.jit, static_argnums=2)
def _open(program: Program, particles: Particle, number: int) -> Particle:
    return opened(program, particles, number)


@partial(jax.jit, static_argnums=(4, 5))
def _advance(
    program: Program, particles: Particle, key: PRNGKey, index: Any, number: int, setup: Setup
) -> tuple[Particle, Float[Array, ""], Float[Array, ""]]:
    step = Program.of(advanced, (program, particles, index), {"number": number, "setup": setup})
    particles = draw(step, key).value
    return particles, log_evidence(particles), effective_sample_size(particles.log_weight)


@partial(jax.jit, static_argnums=(4, 5))
def _rejuvenate(
    program: Program, particles: Particle, key: PRNGKey, place: Any, number: int, setup: Setup
) -> tuple[Particle, Float[Array, ""]]:
    weights = jnp.exp(normalize_log_weights(particles.log_weight).log_weights)
    spread = spread_of(program, particles.value.parameters, weights)
    move = Program.of(rejuvenated, (program, particles, (place, spread)), {"number": number, "setup": setup})
    drawn = draw(move, key)
    return drawn.value, jnp.mean(drawn.writes["acceptance"])


@partial(jax.jit, static_argnums=(4, 5))
def _exchange(program: Program, particles: Particle, key: PRNGKey, place: Any, number: int, setup: Setup) -> Particle:
    change = Program.of(exchanged, (program, particles, place), {"number": number, "setup": setup})
    return draw(change, key).value


# --- what comes out ---------------------------------------------------------------------------------------------------


def _posterior(method: SMC2, program: Program, found: list[Outcome]) -> Posterior:
    draws = jax.tree.map(lambda *x: np.stack(x), *[outcome.particles.value.parameters for outcome in found])
    log_weights = np.stack([outcome.particles.log_weight for outcome in found])
    past = found[0].history
    accepted = np.concatenate([outcome.history.acceptance[outcome.history.rejuvenated] for outcome in found])
    return Posterior(
        draws=draws,
        log_weights=log_weights,
        log_evidence=_evidence(method, found),
        diagnostics={
            "ess": float(np.sum([outcome.history.ess[-1] for outcome in found])),
            "least_ess": float(min(np.min(outcome.history.ess) for outcome in found)),
            "rejuvenations": float(np.mean([np.sum(outcome.history.rejuvenated) for outcome in found])),
            "acceptance": float(np.mean(accepted)) if accepted.size else float("nan"),
            "inner": float(past.inner[-1]),
        },
        program=program,
        method="SMC2",
        history=past,
    )


def _evidence(method: SMC2, found: list[Outcome]) -> Evidence:
    """The mean of the replicates' evidences, and its standard error (delta method); of one run, by its genealogy."""
    logs = np.array([outcome.history.log_evidence[-1] for outcome in found], np.float64)
    if len(found) > 1:
        ratios = np.exp(logs - logs.max())
        error = ratios.std(ddof=1) / np.sqrt(len(ratios)) / ratios.mean()
        return Evidence(float(logs.max() + np.log(ratios.mean())), float(error))
    particles, resampled = found[0].particles, jnp.asarray(found[0].history.rejuvenated)
    error = log_evidence_error(particles.log_weight, particles.value.eve, resampled, method.resampling)[1]
    return Evidence(float(logs[0]), float(error))


def _degenerate(method: SMC2, program: Program, advance: int) -> DegenerateWeightsError:
    return DegenerateWeightsError(
        f"None of the {method.particles} parameters of ppl.SMC2 on {program.name!r} has a filter of positive weight: "
        f"all were lost at advance {advance}.\n"
        "Likely causes: an observation outside its support, a factor of minus infinity or NaN, states that never come "
        "near the data.\n"
        "Fix: check that observation, or use more particles: ppl.SMC2(particles=..., inner=...)."
    )
