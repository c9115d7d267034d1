"""`ppl.MAMS`: many chains side by side for vectorised hardware, with one step size, metric and length for all."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from ppl import native
from ppl.inference.finish import Finished, finish
from ppl.inference.initial import starts_for
from ppl.inference.many_chain_sampler import COLUMNS, ManyChainSampler, ManyPlan, SharedAdaptation
from ppl.inference.mcmc import Run, visit
from ppl.inference.method import Settings, positive
from ppl.inference.posterior import Posterior
from ppl.inference.runner import Group, Track, Visited
from ppl.inference.vector_runs import (
    capacity_of,
    check_tuning,
    lengths,
    look_at_data,
    named_stats,
    target_of,
    told_posterior,
)
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

CHAINS, WARMUP, STEPS = 128, 300, 200
"""The default number of chains, and of warm-up steps and draws of each."""
LAYOUTS = (None, "vmap", "devices")
BLOCK = 1024
"""Draws that are finished at once."""


@dataclass(frozen=True, eq=False)
class MAMS:
    """The Metropolis-adjusted microcanonical sampler, for tens to thousands of chains side by side.

    Chains move at unit speed along trajectories of the same number of steps, and every end is accepted or rejected by
    itself: no chain waits for another. In the warm-up all chains together adapt one step size, one metric (of their
    pooled draws and gradients) and one trajectory length (Adam on the squared jump per length); after it they are
    independent given these. With several devices the chains are spread over them.

    Use it for many short chains; for four long ones, and where the posterior's scale differs much from place to place,
    use `ppl.NUTS`, whose chains adapt by themselves.

    Args:
        target_acceptance: Mean acceptance over chains that the step size is adapted to.
        metric: "low_rank" (diagonal and the directions, up to 64, that stand out; the default), "diagonal", or "dense".
        start: Where chains start: values for all continuous choices by address, with a leading axis of chains; or
            "pathfinder". By default as in `ppl.NUTS`.
        adaptation: What an earlier run learnt (`posterior.continuation.adaptation`); warmup may be 0 then.
        superchains: Into so many groups of consecutive chains, each with one start, for
            `ppl.diagnostics.convergence.nested_r_hat`; it must divide the chains. By default every chain has its own.

    `stats` holds, by draw, `log_density` (of the unconstrained choices, nats), `acceptance`, `diverging`, `step_size`,
    `steps` (gradients) and `length` (the mean length of trajectories); the last three are the same for all chains.

    References: Robnik, Cohn-Gordon, Seljak (2025), *Metropolis adjusted microcanonical Hamiltonian Monte Carlo*;
    Hoffman, Radul, Sountsov (2021), for the adaptation of the length.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def scale(y):
        ...     sigma = ppl.sample("sigma", dist.HalfNormal(2.0))
        ...     ppl.sample("y", dist.Normal(0.0, sigma), obs=y)
        >>> posterior = ppl.infer(scale(1.5), MAMS(), key=0, chains=64, warmup=200, draws=50)
        >>> posterior.draws["sigma"].shape
        (64, 50)
    """

    target_acceptance: float = 0.8
    metric: str = "low_rank"
    start: Any = None
    adaptation: SharedAdaptation | None = None
    superchains: int | None = None
    checks_data = True

    def __post_init__(self) -> None:
        check_tuning(self.target_acceptance, self.metric)

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Find starts, warm up, sample."""
        native.warn_if_too_late()
        job = _job(self, program, key, settings)
        return _posterior(job, visit(job.sampler, job.what))

    def plan(self, dim: int, settings: Settings) -> ManyPlan:
        """What a run on a target of some dimension does."""
        capacity = capacity_of(self.metric, max(dim, 2), self.adaptation)
        numbers = lengths(settings, WARMUP, STEPS)
        cutoff = 1.0 if self.metric == "dense" else 2.0
        return ManyPlan(**numbers, target=self.target_acceptance, capacity=capacity, cutoff=cutoff)


class Job(NamedTuple):
    """A run, and what it needs to go on."""

    method: MAMS
    program: Program
    key: PRNGKey
    settings: Settings
    sampler: ManyChainSampler
    chains: int

    @property
    def what(self) -> Run:
        """The run, as checkpoints know it: one group."""
        given = [np.asarray(x).tolist() for x in jax.tree.leaves((self.method.start, self.method.adaptation))]
        told = repr(("MAMS", self.method.target_acceptance, self.method.metric, self.method.superchains, given))
        return Run(self.program, self.key, told, self.settings, [Group(tuple(range(self.chains)), None)])


def _job(method: MAMS, program: Program, key: PRNGKey, settings: Settings) -> Job:
    chains = CHAINS if settings.chains is None else settings.chains
    devices = _devices(chains, settings.layout)
    target = target_of(program)
    starts = starts_for(target, key, method.start, _given)
    if settings.check_data:
        look_at_data(program, starts, key)

    def kept(positions: np.ndarray, first: tuple[int, int]) -> Finished:
        return finish(target, key, positions, first, settings.keep, BLOCK)

    reduce = None if settings.keep is None else kept
    plan = method.plan(target.dim, settings)
    share = _chains_a_start(chains, method.superchains)

    def start_at(chain: int, attempt: int) -> np.ndarray:
        return starts(chain // share, attempt)

    sampler = ManyChainSampler(target, key, plan, start_at, method.adaptation, devices, reduce)
    return Job(method, program, key, settings, sampler, chains)


def _given(target: Any, start: Any) -> np.ndarray:
    return np.asarray(jax.vmap(target.vector)(start))


def _chains_a_start(chains: int, superchains: int | None) -> int:
    if superchains is None:
        return 1
    if chains % positive("superchains", superchains, 2):
        raise ValueError(
            f"{chains} chains are not {superchains} superchains of equal size.\nFix: chains={superchains * 8}."
        )
    return chains // superchains


def _devices(chains: int, layout: str | None) -> tuple[Any, ...]:
    """The devices that the chains are spread over: as many as divide their number."""
    if layout not in LAYOUTS:
        raise ValueError(
            f'layout is {layout!r}, but the chains of ppl.MAMS go side by side.\nExpected: None, "vmap" or "devices".\n'
            "Fix: leave it out, or use ppl.NUTS for one chain a thread."
        )
    if chains < 2:
        raise ValueError(f"ppl.MAMS was asked for {chains} chain; it learns from many.\nFix: chains=64, or ppl.NUTS.")
    local = jax.local_devices()
    count = 1 if layout == "vmap" else max(n for n in range(1, len(local) + 1) if chains % n == 0)
    return tuple(local[:count])


def _posterior(job: Job, visited: Visited, first_draw: int = 0) -> Posterior:
    target, finished = job.sampler.target, visited.kept["positions"]
    if job.settings.keep is None:
        finished = finish(target, job.key, finished, (0, first_draw), None, BLOCK)
    stats = named_stats(visited.kept["stats"], COLUMNS)
    continuation = Continuation(job, visited.carries)
    return told_posterior(target, finished, stats, _diagnostics(stats, visited), "MAMS", continuation)


def _diagnostics(stats: dict[str, Any], visited: Visited) -> dict[str, float]:
    return {
        "acceptance": float(stats["acceptance"].mean()),
        "divergences": float(stats["diverging"].sum()),
        "step_size": float(stats["step_size"][0, -1]),
        "length": float(stats["length"][0, -1]),
        "warmup_steps": float(visited.carries[0].spent),
    }


@dataclass(frozen=True, eq=False)
class Continuation:
    """What a posterior needs to be extended, and what its warm-up learnt. Not saved with it."""

    job: Job
    carries: list[Any]

    @property
    def adaptation(self) -> SharedAdaptation:
        """Step size, length, metric and last positions, for `ppl.MAMS(adaptation=...)`."""
        return self.job.sampler.adaptation_of(self.carries[0])

    def extend(self, draws: int) -> Posterior:
        """More draws of the same chains, as if the run had been longer from the start."""
        sampler, carry = self.job.sampler, self.carries[0]
        made = (sampler.done(carry) - sampler.plan.warmup) // sampler.plan.thin
        longer = dataclasses.replace(sampler, plan=sampler.plan._replace(draws=made + draws))
        job = self.job._replace(sampler=longer, settings=self.job.settings._replace(checkpoint=None))
        return _posterior(job, visit(longer, job.what, [Track(carry)]), made)
