r"""`ParallelTempering`: chains of `tempered(kernel)` as a method, with a ladder of temperatures learnt from the swaps.

The draws are those of the replica with beta = 1. During the first half of the warm-up the ladder is moved, twice, to
where neighbours would reject swaps equally often: with $\Lambda(\beta)$ the sum of rejection rates from 1 down to beta,
the new inverse temperatures are at equal distances of $\Lambda$. Afterwards it is fixed, so the draws are exact in the
limit of long chains. A round trip is a state's way from beta = 1 to the last beta and back: how often that happens says
how many independent visits the posterior had from the prior.

Reference: Syed et al., "Non-reversible parallel tempering", JRSS B 84 (2022), algorithm 2 and section 5.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from ppl.errors import ConvergenceError
from ppl.inference.advice import mcmc_notes, say
from ppl.inference.kernels import KernelMaker, State, Steps, initial_states, run_chains
from ppl.inference.mcmc import finished
from ppl.inference.method import Settings, positive, refuse
from ppl.inference.posterior import Posterior
from ppl.inference.tempering import checked_ladder, replicated, tempered
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

ROUNDS = 2
"""How often the ladder is moved; each round takes a quarter of the warm-up."""
LEAST_REJECTION = 1e-3
"""Rejection rates count for at least this much, so that the ladder stays strictly falling."""
NOT_KNOWN = ("progress", "checkpoint", "keep", "layout")


class Swaps(NamedTuple):
    """Swaps of a run by pair of neighbours: probabilities and outcomes, pair k being that of replicas k and k + 1."""

    acceptance: Float[np.ndarray, "chains draws pairs"]
    swapped: Bool[np.ndarray, "chains draws pairs"]


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
    only), `swap_rate[k]` and `beta[k]`.

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
        """Start from the prior, move the ladder, run the chains, keep the replica with beta = 1."""
        refuse(settings, NOT_KNOWN, "ParallelTempering", "Fix: leave it out.")
        chains = positive("chains", 4 if settings.chains is None else settings.chains)
        warmup = positive("warmup", 1000 if settings.warmup is None else settings.warmup, 0)
        draws = positive("draws", 1000 if settings.draws is None else settings.draws)
        thin = positive("thin", 1 if settings.thin is None else settings.thin)
        betas = np.asarray(self.inverse_temperatures)
        start_key, adapt_key, run_key = jax.random.split(key, 3)
        states = _starts(program, start_key, chains, len(betas))
        if self.adapt and warmup >= 20 * ROUNDS and len(betas) > 2:
            betas, states = _learnt(self.kernel, program, states, adapt_key, betas, warmup // (2 * ROUNDS))
            warmup -= ROUNDS * (warmup // (2 * ROUNDS))
        run = Steps(warmup * thin, draws, thin)
        visited = run_chains(tempered(self.kernel), replicated(program, betas), (states, run_key), run)
        return _posterior(program, visited, betas, thin)


def _starts(program: Program, key: PRNGKey, chains: int, replicas: int) -> State:
    drawn = initial_states(program, key, chains * replicas)
    return jax.tree.map(lambda x: x.reshape(chains, replicas, *x.shape[1:]), drawn)


def _learnt(
    kernel: KernelMaker, program: Program, states: State, key: PRNGKey, betas: np.ndarray, steps: int
) -> tuple[np.ndarray, State]:
    """The ladder after some rounds of moving it, and where the chains then are."""
    for index in range(ROUNDS):
        start = (states, jax.random.fold_in(key, index))
        visited = run_chains(tempered(kernel), replicated(program, betas), start, Steps(0, steps))
        betas = equal_ladder(betas, 1.0 - _swaps(visited.stats).acceptance.mean((0, 1)))
        states = visited.last
    return betas, states


def equal_ladder(
    betas: Float[np.ndarray, "replicas"], rejections: Float[np.ndarray, "pairs"]
) -> Float[np.ndarray, "replicas"]:
    """The ladder with the same ends on which neighbours are equally far apart, by rejection rate.

    Args:
        betas: The falling ladder on which swaps were tried.
        rejections: Mean rejection probability of each pair of neighbours.

    Examples:
        >>> equal_ladder(np.array([1.0, 0.5, 0.0]), np.array([0.2, 0.6])).round(3).tolist()
        [1.0, 0.333, 0.0]
    """
    barrier = np.concatenate([[0.0], np.cumsum(np.maximum(rejections, LEAST_REJECTION))])
    return np.interp(np.linspace(0.0, barrier[-1], len(betas)), barrier, betas)


def _swaps(stats: dict[str, Any]) -> Swaps:
    """The swaps of even and odd pairs, brought in order."""

    def interleaved(name: str) -> np.ndarray:
        names = [f"{which}/{name}" for which in ("even", "odd")]
        parts = [np.asarray(stats[name]) for name in names if name in stats]
        whole = np.zeros((*parts[0].shape[:2], sum(part.shape[2] for part in parts)), parts[0].dtype)
        for first, part in enumerate(parts):
            whole[:, :, first::2] = part
        return whole

    return Swaps(interleaved("acceptance"), interleaved("swapped"))


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


def _posterior(program: Program, visited: Any, betas: np.ndarray, thin: int) -> Posterior:
    states = jax.tree.map(lambda x: x[:, :, 0], visited.states)
    swaps = _swaps(visited.stats)
    stats = _cold_stats(visited.stats)
    if states.choices and not visited.moved.any():
        raise ConvergenceError(
            f"None of the chains of ParallelTempering on {program.name!r} ever left its start.\n"
            "Fix: another kernel, or smaller steps: see its `acceptance` with ppl.MCMC(kernel)."
        )
    rates = {f"swap_rate[{k}]": float(x) for k, x in enumerate(swaps.acceptance.mean((0, 1)))}
    ladder = {f"beta[{k}]": float(beta) for k, beta in enumerate(betas)}
    trips = {"round_trips": float(round_trips(swaps.swapped).sum())} if thin == 1 else {}
    posterior = Posterior(
        **finished(program, states, None),
        stats=stats,
        diagnostics={**trips, **rates, **ladder},
        program=program,
        method="ParallelTempering",
    )
    say(mcmc_notes(posterior), f"ParallelTempering on {program.name!r}")
    return posterior


def _cold_stats(stats: dict[str, Any]) -> dict[str, Any]:
    """What the first replica's kernel recorded in its last move; its log density is that before the last swap."""
    names = [name for name in stats if name.startswith("second/") and not name.endswith("log_density")]
    return {name.removeprefix("second/"): stats[name][:, :, 0] for name in names}
