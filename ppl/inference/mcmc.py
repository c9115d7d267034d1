"""`ppl.MCMC`: any kernel as a method. What all methods that run chains have in common is here, too."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from ppl.errors import ConvergenceError
from ppl.inference.advice import mcmc_notes, say
from ppl.inference.checkpoint import Checkpoint, fingerprint
from ppl.inference.finish import Keep
from ppl.inference.kernel_sampler import KernelSampler
from ppl.inference.kernels import KernelMaker, State
from ppl.inference.method import Settings
from ppl.inference.population import replayed
from ppl.inference.posterior import Posterior
from ppl.inference.progress import Reporter
from ppl.inference.runner import Group, Sampler, Track, Visited, groups_of, run
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

BLOCK = 1024
"""How many draws are worked on at once after a run."""
CHAINS, STEPS = 4, 1000
"""The default number of chains, and of warm-up steps and draws."""


class Run(NamedTuple):
    """A run of chains: what a checkpoint must know to tell it from others, and where it runs."""

    program: Program
    key: PRNGKey
    method: str
    settings: Settings
    groups: list[Group]


def groups_for(settings: Settings) -> list[Group]:
    """The groups of chains that the settings ask for."""
    return groups_of(CHAINS if settings.chains is None else settings.chains, settings.layout)


def visit(sampler: Sampler, what: Run, tracks: list[Track | None] | None = None) -> Visited:
    """Run chains to their end, with a progress bar, from and to the checkpoint that the settings name."""
    settings, save = what.settings, None
    if settings.checkpoint is not None:
        told = settings._replace(progress=None, checkpoint=None, layout=None, keep=repr(settings.keep))
        layout = repr([group.chains for group in what.groups])
        save = Checkpoint(settings.checkpoint, fingerprint(what.program, what.key, what.method, (told, layout)))
        tracks = save.tracks(sampler, what.groups) if tracks is None else tracks
    chains = sum(len(group.chains) for group in what.groups)
    known = zip(tracks or [], what.groups, strict=False)
    done = sum(sampler.done(track.carry) * len(group.chains) for track, group in known if track)
    reporter = Reporter(sampler.total * chains, show=settings.progress, done=done)
    return run(sampler, what.groups, reporter, save, tracks)


@dataclass(frozen=True, eq=False)
class MCMC:
    """Chains of any kernel.

    Args:
        kernel: Makes a kernel of a program, such as `ppl.inference.cycle(...)`; hashable.
        thin: Steps a draw, where `ppl.infer` is not given another number.
        name: What the posterior calls the method.
        begin: From the program, a key and a prior draw to where a chain starts; for kernels whose states carry more.

    Starts are prior draws of positive density. `stats` holds what the kernel records, by its addresses.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl.inference import trace_mh_kernel
        >>> @ppl.model
        ... def coin(y):
        ...     p = ppl.sample("p", dist.Beta(2.0, 2.0))
        ...     ppl.sample("y", dist.Binomial(10, p), obs=y)
        >>> posterior = ppl.infer(coin(7), MCMC(trace_mh_kernel), key=0, chains=2, warmup=500, draws=2000)
        >>> posterior.draws["p"].shape
        (2, 2000)
    """

    kernel: KernelMaker
    thin: int = 1
    name: str = "MCMC"
    begin: Callable[[Program, PRNGKey, State], State] | None = None

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Start from the prior, run the chains, throw the warm-up away."""
        warmup = STEPS if settings.warmup is None else settings.warmup
        draws = STEPS if settings.draws is None else settings.draws
        groups = groups_for(settings)
        thin = self.thin if settings.thin is None else settings.thin
        lockstep = len(groups[0].chains) > 1

        def reduce(states: State, first: tuple[int, int]) -> Any:
            del first
            return finished(program, states, settings.keep)

        kept = None if settings.keep is None else reduce
        sampler = KernelSampler(self.kernel, program, key, warmup * thin, draws, thin, lockstep, kept, self.begin)
        what = Run(program, key, repr((self.name, self.kernel)), settings, groups)
        return _posterior(self, sampler, what, visit(sampler, what))


def _posterior(method: MCMC, sampler: KernelSampler, what: Run, visited: Visited) -> Posterior:
    _refuse_stuck(method, sampler, visited)
    parts, stats = visited.kept["states"], visited.kept["stats"]
    if what.settings.keep is None:
        parts = finished(sampler.program, State(*parts), None, _shape(stats))  # a checkpoint knows the names alone
    posterior = Posterior(
        **parts,
        stats=stats,
        diagnostics=_acceptance(stats),
        program=sampler.program,
        method=method.name,
        continuation=Chains(method, sampler, what, visited.carries),
    )
    say(mcmc_notes(posterior), f"{method.name} on {sampler.program.name!r}")
    return posterior


def _acceptance(stats: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean of everything called `accepted`, under the address of its kernel."""
    named = {name.replace("accepted", "acceptance"): x for name, x in stats.items() if name.endswith("accepted")}
    return {name: float(np.mean(x)) for name, x in named.items()}


def _refuse_stuck(method: MCMC, sampler: KernelSampler, visited: Visited) -> None:
    moved = [bool(np.any(carry.moved)) for carry in visited.carries]
    if any(moved) or not jax.tree.leaves(visited.carries[0].states.choices):
        return
    chains = sum(np.size(carry.chains) for carry in visited.carries)
    raise ConvergenceError(
        f"None of the {chains} chains of ppl.{method.name} on {sampler.program.name!r} ever left its start in "
        f"{sampler.total} steps.\n"
        "Either no proposal has positive density (moves change one choice at a time where two must change together), "
        "or the posterior is one point.\n"
        "Fix: write dependent choices as one, use ppl.Exact() or ppl.Importance, or see "
        "ppl.inference.irreducible(program)."
    )


def _shape(tree: Any, default: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """The leading axes (chains, draws) of arrays, where there are any."""
    return next((x.shape[:2] for x in jax.tree.leaves(tree)), default)


def finished(program: Program, states: State, keep: Keep, shape: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    """Parts of a posterior from states with leading axes (chains, draws); `shape`, where there are no choices."""
    shape = _shape(states, shape)
    flat = {a: np.asarray(x).reshape(-1, *x.shape[2:]) for a, x in states.choices.items()}
    if callable(keep):
        return {"draws": {}, "values": _in_blocks(jax.vmap(keep), flat, shape)}

    def recorded(choices: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        runs = replayed(program, choices, BLOCK)
        return runs.deterministic, runs.value

    deterministic, values = _in_blocks(recorded, flat, shape)
    parts = {"draws": states.choices, "masks": states.masks, "deterministic": deterministic}
    if keep is None:
        return {**parts, "values": values}
    return {part: {a: x for a, x in arrays.items() if a in keep} for part, arrays in parts.items()}


def _in_blocks(function: Any, flat: dict[str, Any], shape: tuple[int, int]) -> Any:
    """A function of draws in blocks of one size, so that other numbers of draws need no compilation."""
    count, parts = shape[0] * shape[1], []
    for begin in range(0, count, BLOCK):
        some = np.minimum(np.arange(begin, begin + BLOCK), count - 1)
        done = function({a: x[some] for a, x in flat.items()})
        parts.append(jax.tree.map(lambda x, n=count - begin: np.asarray(x)[:n], done))
    return jax.tree.map(lambda *x: np.concatenate(x).reshape(*shape, *x[0].shape[1:]), *parts)


@dataclass(frozen=True, eq=False)
class Chains:
    """What a posterior by a kernel needs to be extended. Not saved with it."""

    method: MCMC
    sampler: KernelSampler
    what: Run
    carries: list[Any]

    def extend(self, draws: int) -> Posterior:
        """More draws of the same chains, as if the run had been longer from the start."""
        made = max(self.sampler.done(carry) - self.sampler.warmup for carry in self.carries) // self.sampler.thin
        longer = dataclasses.replace(self.sampler, draws=made + draws)
        what = self.what._replace(settings=self.what.settings._replace(checkpoint=None))
        return _posterior(self.method, longer, what, visit(longer, what, [Track(c) for c in self.carries]))
