r"""`ParallelTempering`: chains of `tempered(kernel)` as a method, with a ladder of temperatures learnt from the swaps.

The draws are those of the replica with beta = 1. During the first half of the warm-up the ladder is moved, twice, to
where neighbours would reject swaps equally often: with $\Lambda(\beta)$ the sum of rejection rates from 1 down to beta,
the new inverse temperatures are at equal distances of $\Lambda$. Afterwards it is fixed, so the draws are exact in the
limit of long chains. A round trip is a state's way from beta = 1 to the last beta and back: how often that happens says
how many independent visits the posterior had from the prior.

Reference: Syed et al., "Non-reversible parallel tempering", JRSS B 84 (2022), algorithm 2 and section 5.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ppl.errors import ConvergenceError
from ppl.inference.advice import mcmc_notes, say
from ppl.inference.kernels import KernelMaker, State
from ppl.inference.mcmc import STEPS, Run, finished, groups_for, visit
from ppl.inference.method import Settings, positive
from ppl.inference.posterior import Posterior
from ppl.inference.runner import Track, Visited
from ppl.inference.tempering import checked_ladder
from ppl.inference.tempering_sampler import ROUNDS, TemperingSampler
from ppl.semantics.program import Program
from ppl.typing import PRNGKey


@dataclass(frozen=True)
class ParallelTempering:
    """Parallel tempering with any kernel, for posteriors with several modes.

    Args:
        kernel: Makes the kernel of one replica, such as `ppl.inference.slice_sampling()`; hashable.
        inverse_temperatures: A falling ladder from 1 (the posterior) to the hottest replica; 0 is the prior.
        adapt: Whether the warm-up moves the ladder's inner rungs to equal rates of swaps.

    `ppl.infer(program, ParallelTempering(kernel), key=0, chains=4, warmup=1000, draws=1000, thin=1)` shows the
    defaults. A step moves every replica twice. `stats` holds `accepted` and what else the kernel records as one number
    for the replica with beta = 1; `diagnostics` holds `round_trips` (their number, all chains together; with thin=1
    only), `swap_rate[k]` and `beta[k]`, means over chains: each chain moves its own ladder.

    Raises:
        ValueError: the ladder does not fall from 1.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl.inference import hmc
        >>> @ppl.model
        ... def either(y):
        ...     x = ppl.sample("x", dist.Normal(0.0, 5.0))
        ...     ppl.sample("y", dist.Normal(x**2, 1.0), obs=y)
        >>> method = ParallelTempering(hmc(0.2, 4), (1.0, 0.2, 0.03), adapt=False)
        >>> posterior = ppl.infer(either(4.0), method, key=0, chains=4, warmup=500, draws=1500)
        >>> bool(abs((posterior.draws["x"] > 0).mean() - 0.5) < 0.1)
        True
    """

    kernel: KernelMaker
    inverse_temperatures: tuple[float, ...] = (1.0, 0.6, 0.3, 0.1, 0.03, 0.0)
    adapt: bool = True

    def __post_init__(self) -> None:
        checked_ladder(self.inverse_temperatures)

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Start from the prior, move the ladders, run the chains, keep the replica with beta = 1."""
        warmup = positive("warmup", STEPS if settings.warmup is None else settings.warmup, 0)
        draws = positive("draws", STEPS if settings.draws is None else settings.draws)
        thin = positive("thin", 1 if settings.thin is None else settings.thin)
        groups, betas = groups_for(settings), self.inverse_temperatures
        learn = warmup // (2 * ROUNDS) if self.adapt and warmup >= 20 * ROUNDS and len(betas) > 2 else 0

        def reduce(states: State, first: tuple[int, int]) -> Any:
            del first
            return finished(program, states, settings.keep)

        kept, lockstep = None if settings.keep is None else reduce, len(groups[0].chains) > 1
        sampler = TemperingSampler(
            self.kernel, program, key, betas, warmup * thin, draws, thin, learn * thin, lockstep, kept
        )
        what = Run(program, key, repr(("ParallelTempering", self)), settings, groups)
        return _posterior(sampler, what, visit(sampler, what))


def round_trips(swapped: Bool[np.ndarray, "chains draws pairs"]) -> Int[np.ndarray, "chains"]:
    """How often a state went from the first replica to the last and back, by chain; every step must be there.

    Args:
        swapped: Which pairs were swapped in each step: even pairs first, then odd ones.

    Examples:
        >>> round_trips(np.ones((1, 8, 1), bool)).tolist()  # two replicas that always swap
        [7]
    """
    chains, draws, pairs = swapped.shape
    labels = np.tile(np.arange(pairs + 1), (chains, 1))
    # By label: 1 was last at the cold end, 2 has been at the hot end since, 0 has not been at the cold end yet.
    phase, trips, rows = np.zeros((chains, pairs + 1), int), np.zeros(chains, int), np.arange(chains)
    phase[:, 0] = 1
    for step in range(draws):
        for parity in range(min(2, pairs)):
            for left in range(parity, pairs, 2):
                pair = labels[:, left : left + 2]
                labels[:, left : left + 2] = np.where(swapped[:, step, left, None], pair[:, ::-1], pair)
            cold, hot = labels[:, 0], labels[:, -1]
            trips += phase[rows, cold] == 2
            phase[rows, cold] = 1
            phase[rows, hot] = np.where(phase[rows, hot] == 1, 2, phase[rows, hot])
    return trips


def _posterior(sampler: TemperingSampler, what: Run, visited: Visited) -> Posterior:
    program, kept = sampler.program, visited.kept
    if not any(np.any(carry.moved) for carry in visited.carries) and visited.carries[0].states.choices:
        raise ConvergenceError(
            f"None of the chains of ParallelTempering on {program.name!r} ever left its start.\n"
            "Fix: another kernel, or smaller steps: see its `acceptance` with ppl.MCMC(kernel)."
        )
    parts, (acceptance, swapped) = kept["states"], kept["swaps"]
    if what.settings.keep is None:
        parts = finished(program, State(*parts), None, acceptance.shape[:2])
    posterior = Posterior(
        **parts,
        stats=kept["stats"],
        diagnostics=_diagnostics(sampler, visited, acceptance, swapped),
        program=program,
        method="ParallelTempering",
        continuation=Continuation(sampler, what, visited.carries),
    )
    say(mcmc_notes(posterior), f"ParallelTempering on {program.name!r}")
    return posterior


def _diagnostics(
    sampler: TemperingSampler, visited: Visited, acceptance: np.ndarray, swapped: np.ndarray
) -> dict[str, float]:
    rates = {f"swap_rate[{k}]": float(x) for k, x in enumerate(acceptance.mean((0, 1)))}
    ladders = np.concatenate([carry.betas for carry in visited.carries])
    ladder = {f"beta[{k}]": float(beta) for k, beta in enumerate(ladders.mean(0))}
    trips = {"round_trips": float(round_trips(np.asarray(swapped)).sum())} if sampler.thin == 1 else {}
    return {**trips, **rates, **ladder}


@dataclass(frozen=True, eq=False)
class Continuation:
    """What a posterior needs to be extended. Not saved with it."""

    sampler: TemperingSampler
    what: Run
    carries: list[Any]

    def extend(self, draws: int) -> Posterior:
        """More draws of the same chains, as if the run had been longer from the start."""
        made = max(self.sampler.done(carry) - self.sampler.warmup for carry in self.carries) // self.sampler.thin
        longer = dataclasses.replace(self.sampler, draws=made + draws)
        what = self.what._replace(settings=self.what.settings._replace(checkpoint=None))
        return _posterior(longer, what, visit(longer, what, [Track(carry) for carry in self.carries]))
