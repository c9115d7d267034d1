"""`ppl.Gibbs()`: a kernel for each choice of a program, the best that is recognised, one after the other.

    conjugate       the conditional is Normal, Gamma, Beta or Dirichlet: drawn exactly
    gibbs           finitely many outcomes: drawn exactly by enumeration
    slice_sampling  any other continuous choice
    trace_mh        counts without bound: redrawn from their law, accepted or not
    trace_mh, all   choices in branches and those that decide on branches: single-site moves of the whole program

Each but the last evaluates only the density terms that its choice reaches.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from ppl.errors import MeasureError
from ppl.inference.combinators import Cycle, cycle, on, repeat
from ppl.inference.conjugate import conjugate, why_not
from ppl.inference.gibbs import gibbs, is_finite
from ppl.inference.kernels import KernelMaker
from ppl.inference.mcmc import MCMC
from ppl.inference.method import Settings, positive
from ppl.inference.posterior import Posterior
from ppl.inference.slice_sampling import slice_sampling
from ppl.inference.trace_mh import trace_mh_kernel
from ppl.semantics import choices as ch
from ppl.semantics.program import Program
from ppl.semantics.slicing import switched
from ppl.typing import PRNGKey

MOST_STEPS = 100
"""The most steps of trace MH in a sweep."""


class Move(NamedTuple):
    """How one choice is drawn: the kernel's name, and why not by a better one."""

    address: str
    kernel: str
    why: str


class Plan(NamedTuple):
    """The kernel of each choice, in program order; prints as a table."""

    moves: tuple[Move, ...]
    maker: Cycle

    def __repr__(self) -> str:
        """A line for each choice."""
        width = max(len(move.address) for move in self.moves)
        lines = [f"  {m.address:<{width}}  {m.kernel:<14}  {m.why}".rstrip() for m in self.moves]
        return "\n".join(["Gibbs", *lines])


@dataclass(frozen=True)
class Gibbs:
    """Gibbs sampling: each choice from its conditional, exactly where it is conjugate or finite.

    Args:
        thin: Sweeps a draw.
        width: The typical width of a slice in R^n, for continuous choices without a conjugate conditional.

    Starts are prior draws. `plan(program)` tells which kernel draws which choice. Slow to mix where choices are
    strongly correlated: `ppl.NUTS()` moves all continuous ones together.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def mixture(y):
        ...     mu = ppl.sample("mu", dist.Normal(jax.numpy.array([-1.0, 1.0]), 2.0).to_event(1))
        ...     s = ppl.sample("s", dist.LogNormal(0.0, 1.0))
        ...     with ppl.plate("n", 3):
        ...         z = ppl.sample("z", dist.Bernoulli(0.5))
        ...         ppl.sample("y", dist.Normal(mu[z], s), obs=y)
        >>> [(m.address, m.kernel) for m in Gibbs().plan(mixture(jax.numpy.array([0.5, 1.0, -2.0]))).moves]
        [('mu', 'conjugate'), ('s', 'slice_sampling'), ('z', 'gibbs')]
    """

    thin: int = 1
    width: float = 1.0

    def __post_init__(self) -> None:
        positive("thin", self.thin)

    def plan(self, program: Program) -> Plan:
        """Which kernel draws which choice of a program."""
        addresses = list(ch.latent_infos(program.staged))
        if not addresses:
            raise MeasureError(
                f"The program {program.name!r} has no latent choice.\nExpected: something to draw. Check `obs`."
            )
        return plan_of_choices(program, addresses, self.width)

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Start from the prior, run the chains, throw the warm-up away."""
        return MCMC(self.plan(program).maker, self.thin, "Gibbs").run(program, key, settings)


def plan_of_choices(program: Program, addresses: Sequence[str], width: float = 1.0) -> Plan:
    """Which kernel draws which of some choices, each given all others.

    Args:
        program: The program.
        addresses: The latent addresses to move, one at least.
        width: See `Gibbs`.
    """
    ch.refuse_unbounded(program.staged, "kernel")
    moves = tuple(_move(program, address) for address in addresses)
    return Plan(moves, cycle(*_makers(program, moves, width)))


def _move(program: Program, address: str) -> Move:
    info = program.sites[address]
    if info.masked:
        return Move(address, TRACE, "it lies inside a branch")
    decided = switched(program, (address,))
    if decided:
        return Move(address, TRACE, f"it decides whether {', '.join(decided)} are made")
    if address not in program.staged.table:
        return Move(address, TRACE, "it is one of several values of one site")
    if is_finite(program, address):
        return Move(address, "gibbs", "")
    continuous = jnp.issubdtype(info.dtype, jnp.floating)
    reason = why_not(program, address) if continuous else None
    if continuous:
        return Move(address, "conjugate" if reason is None else "slice_sampling", _short(reason))
    return Move(address, "trace_mh", f"a {info.distribution} has no finite support")


TRACE = "trace_mh, all"
"""The kernel of what cannot be moved with the other choices fixed; it comes last."""


def _short(reason: str | None) -> str:
    """The cause in an error's first line."""
    return "" if reason is None else reason.split("\n", 1)[0].split("is not recognised: ", 1)[-1].rstrip(".")


def _makers(program: Program, moves: tuple[Move, ...], width: float) -> list[KernelMaker]:
    """Kernels in program order, neighbours of one kind together."""
    named = [move for move in moves if move.kernel != TRACE]
    made: list[KernelMaker] = []
    for kernel, group in itertools.groupby(named, key=lambda move: move.kernel):
        addresses = tuple(move.address for move in group)
        if kernel == "trace_mh":
            made.extend(on(a, repeat(trace_mh_kernel, _steps(program, a))) for a in addresses)
        else:
            made.extend(_OF_KIND[kernel](addresses, width))
    if len(named) < len(moves):
        made.append(repeat(trace_mh_kernel, _steps(program, *ch.latent_infos(program.staged))))
    return made


def _steps(program: Program, *addresses: str) -> int:
    """As many steps as there are elements of choices, between 1 and `MOST_STEPS`."""
    return min(max(sum(math.prod(program.sites[address].shape) for address in addresses), 1), MOST_STEPS)


_OF_KIND: dict[str, Callable[[tuple[str, ...], Any], list[KernelMaker]]] = {
    "gibbs": lambda addresses, width: [gibbs(addresses)],
    "conjugate": lambda addresses, width: [conjugate(addresses)],
    "slice_sampling": lambda addresses, width: [on(address, slice_sampling(width)) for address in addresses],
}
