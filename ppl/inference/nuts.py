"""`ppl.NUTS`: the No-U-Turn sampler with warm-up, for any program whose choices are continuous or can be summed out."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from ppl import native
from ppl.inference.finish import Finished, finish
from ppl.inference.hamiltonian_sampler import CHOOSY, HamiltonianSampler, Plan
from ppl.inference.initial import Starts, starts_for
from ppl.inference.mcmc import STEPS, Run, groups_for, visit
from ppl.inference.method import Settings, positive
from ppl.inference.posterior import Posterior
from ppl.inference.runner import Group, Track, Visited, is_compiled
from ppl.inference.vector_runs import (
    capacity_of,
    check_tuning,
    lengths,
    look_at_data,
    named_stats,
    target_of,
    told_posterior,
)
from ppl.inference.warmup import Adaptation
from ppl.numerics.chain import STATS
from ppl.numerics.metric_estimates import CUTOFF
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

BLOCK = 1 << 18
"""Numbers that one block of finished draws holds, at most (at least 256 draws)."""


@dataclass(frozen=True, eq=False)
class NUTS:
    """The No-U-Turn sampler: multinomial, with the generalised criterion and adapted step size and metric.

    Args:
        target_acceptance: Mean acceptance that the step size is adapted to; nearer to one for fewer divergences.
        max_depth: The most doublings of a trajectory: at most 2^max_depth - 1 gradients a draw.
        metric: "low_rank" (diagonal and the directions, up to 64, that stand out; the default), "diagonal", or "dense".
        start: Where chains start: values for all continuous choices by address, or with a leading axis of chains. By
            default uniform near the origin of the unconstrained space; where the density is zero there: nearer to the
            origin, at prior draws, and by Pathfinder. "pathfinder" for that alone: about where the posterior's mass is,
            for models whose posterior is far from the origin (a few hundred gradients a chain; no more is claimed).
        adaptation: What an earlier run learnt (`posterior.continuation.adaptation`); warmup may be 0 then.

    `stats` holds, by draw, `log_density` (of the unconstrained choices) and `energy` in nats, `acceptance`,
    `step_size`, `steps` (gradients), `tree_depth`, `diverging` and `max_tree_depth_reached` (the trajectory was cut
    short: it had not turned after the last doubling).

    References: Hoffman & Gelman (2014), *The No-U-Turn Sampler*; Betancourt (2017), *A conceptual introduction to
    Hamiltonian Monte Carlo*; for the metrics Seyboldt, Carlson, Carpenter (2026); for starts Zhang et al. (2022).

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def scale(y):
        ...     sigma = ppl.sample("sigma", dist.HalfNormal(2.0))
        ...     ppl.sample("y", dist.Normal(0.0, sigma), obs=y)
        >>> posterior = ppl.infer(scale(1.5), NUTS(), key=0, chains=2, warmup=200, draws=300)
        >>> posterior.draws["sigma"].shape
        (2, 300)
    """

    target_acceptance: float = 0.8
    max_depth: int = 10
    metric: str = "low_rank"
    start: Any = None
    adaptation: Adaptation | None = None
    checks_data = True

    def __post_init__(self) -> None:
        positive("max_depth", self.max_depth)
        check_tuning(self.target_acceptance, self.metric)

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Find starts, warm up, sample."""
        native.warn_if_too_late()
        job = _job(self, program, key, settings)
        return _posterior(job, visit(job.sampler, job.what))

    def plan(self, dim: int, settings: Settings) -> Plan:
        """What a run on a target of some dimension does."""
        capacity = capacity_of(self.metric, dim, self.adaptation)
        numbers = lengths(settings, STEPS, STEPS)
        cutoff = 1.0 if self.metric == "dense" else CUTOFF
        return Plan(**numbers, target=self.target_acceptance, depth=self.max_depth, capacity=capacity, cutoff=cutoff)


@dataclass(frozen=True, eq=False)
class HMC(NUTS):
    """Hamiltonian Monte Carlo with trajectories of a fixed mean length, and the warm-up of `ppl.NUTS`.

    Args:
        length: Mean length of a trajectory in the coordinates of the metric, where the posterior's scale is about one:
            pi / 2 takes a normal posterior to a nearly independent point. It varies by 40% from draw to draw.

    The other arguments are those of `ppl.NUTS`; `max_depth` means nothing here. It costs one gradient a step and no
    checks, and all chains side by side take similar numbers of steps; where the right length is not known, use NUTS.

    Reference: Neal (2011), *MCMC using Hamiltonian dynamics*.
    """

    length: float = 1.5707964

    def plan(self, dim: int, settings: Settings) -> Plan:
        """The plan of NUTS, with static trajectories."""
        return NUTS.plan(self, dim, settings)._replace(length=float(self.length))


class Job(NamedTuple):
    """A run, and what it needs to go on."""

    method: NUTS
    program: Program
    key: PRNGKey
    settings: Settings
    sampler: HamiltonianSampler
    groups: list[Group]

    @property
    def what(self) -> Run:
        """The run, as checkpoints know it."""
        return Run(self.program, self.key, _described(self.method), self.settings, self.groups)


def _job(method: NUTS, program: Program, key: PRNGKey, settings: Settings) -> Job:
    target = target_of(program)
    groups = groups_for(settings)
    starts = starts_for(target, key, method.start, _given)
    plan = method.plan(target.dim, settings)

    def reduce(positions: np.ndarray, first: tuple[int, int]) -> Finished:
        return finish(target, key, positions, first, settings.keep, _block(target.dim))

    kept = None if settings.keep is None else reduce
    side, enough = len(groups[0].chains), CHOOSY if method.start is None and method.adaptation is None else 1
    sampler = HamiltonianSampler(target, key, plan, starts, method.adaptation, side, kept, enough)
    _prepare(sampler, starts, program, key, check=settings.check_data, finishing=settings.keep is None)
    return Job(method, program, key, settings, sampler, groups)


def _prepare(
    sampler: HamiltonianSampler, starts: Starts, program: Program, key: PRNGKey, *, check: bool, finishing: bool
) -> None:
    """Look at the data; in a new process compile meanwhile: XLA holds no lock."""
    if is_compiled(sampler):
        return look_at_data(program, starts, key) if check else None
    with ThreadPoolExecutor(1, thread_name_prefix="compile") as side:
        compiled = side.submit(sampler.prime)
        if check:
            look_at_data(program, starts, key)
        if finishing:
            finish(sampler.target, key, np.zeros((1, 1, sampler.dim)), (0, 0), None, _block(sampler.dim))
        return compiled.result()


def _given(target: Any, start: Any) -> np.ndarray:
    """A given start as unconstrained vectors by chain."""
    rank = {a: len(i.shape) for a, i in target.program.sites.items()}
    values = {a: np.asarray(x) for a, x in start.items()}
    if any(x.ndim > rank.get(a, x.ndim) for a, x in values.items()):
        return np.asarray(jax.vmap(target.vector)(values))
    return np.asarray(target.vector(values))[None]


def _block(dim: int) -> int:
    return max(256, min(1024, BLOCK // max(dim, 1)))


def _described(method: NUTS) -> str:
    settings = (method.target_acceptance, method.max_depth, method.metric, getattr(method, "length", None))
    given = [np.asarray(x).tolist() for x in jax.tree.leaves((method.start, method.adaptation))]
    return repr((type(method).__name__, *settings, given))


def _posterior(job: Job, visited: Visited, first_draw: int = 0) -> Posterior:
    target, settings = job.sampler.target, job.settings
    finished = visited.kept["positions"]
    if settings.keep is None:
        finished = finish(target, job.key, finished, (0, first_draw), None, _block(target.dim))
    stats = _stats(visited.kept["stats"], job.sampler.plan)
    continuation, method = Continuation(job, visited.carries), type(job.method).__name__
    return told_posterior(target, finished, stats, _diagnostics(stats, visited), method, continuation)


def _stats(columns: np.ndarray, plan: Plan) -> dict[str, np.ndarray]:
    stats = named_stats(columns, STATS)
    if plan.length is not None:  # there are no trees
        return {name: x for name, x in stats.items() if name not in ("tree_depth", "max_tree_depth_reached")}
    return stats


def _diagnostics(stats: dict[str, np.ndarray], visited: Visited) -> dict[str, float]:
    return {
        "acceptance": float(stats["acceptance"].mean()),
        "divergences": float(stats["diverging"].sum()),
        "step_size": float(stats["step_size"][:, -1].mean()),
        "warmup_steps": float(sum(int(carry.spent) for carry in visited.carries)),
    }


@dataclass(frozen=True, eq=False)
class Continuation:
    """What a posterior by chains needs to be extended, and what its warm-up learnt. Not saved with it."""

    job: Job
    carries: list[Any]

    @property
    def adaptation(self) -> Adaptation:
        """Step sizes, metrics and last positions, for `ppl.NUTS(adaptation=...)`."""
        return self.job.sampler.adaptation_of(self.carries)

    def extend(self, draws: int) -> Posterior:
        """More draws of the same chains, as if the run had been longer from the start."""
        sampler = self.job.sampler
        plan = sampler.plan
        made = max(sampler.done(carry) - plan.warmup for carry in self.carries) // plan.thin
        longer = dataclasses.replace(sampler, plan=plan._replace(draws=made + draws))
        job = self.job._replace(sampler=longer, settings=self.job.settings._replace(checkpoint=None))
        return _posterior(job, visit(longer, job.what, [Track(carry) for carry in self.carries]), made)
