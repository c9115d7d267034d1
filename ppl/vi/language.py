"""What an objective says of other programs: draw one with its density, score one, change a choice's strategy.

    simulate(program)      = (choices x, log density of the program at x),  x drawn by sites of the objective
    log_density(program, x) = the log density of the program at x

Both are differentiable in the program's parameters and in the choices.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl.distributions.drawn import law_of_draws
from ppl.errors import AddressError
from ppl.semantics import choices as ch
from ppl.semantics import scope
from ppl.semantics.binding import bind_sample
from ppl.semantics.estimated import estimated_sites
from ppl.semantics.opening import drawn, scored, simulated
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, SampleSite
from ppl.semantics.rewrites import Rewrite, bind_again, placed
from ppl.semantics.scoring import total_log_prob
from ppl.vi.baselines import learned
from ppl.vi.pathwise import Noise
from ppl.vi.strategy import Strategy
from ppl.vi.unfolding import Unfolds
from ppl.vi.watching import watched


def simulate(program: Program, address: str = "") -> tuple[Choices, Any]:
    """Draw a program's choices inside an objective, with their log density.

    Args:
        program: A program. Its choices keep their gradient strategies.
        address: A prefix for the addresses of its choices in the objective (not in what is returned), needed where an
            objective draws the same addresses twice.

    Returns:
        The choices by address, and the program's joint log density there (nats; observations and factors included).
        Where it can only be estimated (`ppl.SIR`), the log of a weight w with E[1 / w | choices] = 1 / density: its
        mean is an upper bound, so that an ELBO made with it is still a lower bound.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @ppl.model
        ... def guide(mean):
        ...     ppl.sample("x", dist.Normal(mean, 1.0))
        >>> @vi.objective
        ... def entropy(mean):
        ...     return -vi.simulate(guide(mean))[1]
        >>> round(float(entropy.average(2000).value(0, 0.3)), 1)  # 0.5 log(2 pi e)
        1.4
    """
    ch.refuse_unbounded(program.staged, "density")
    with scope.under(address):
        return simulated(program, _drawn)


def _drawn(node: SampleSite) -> tuple[Any, Any]:
    """A choice as a site of the objective, or as sites of noise, with its log density."""
    if isinstance(node.measure, Unfolds):
        return node.measure.unfolded(placed(node.site))
    if learned(node.measure) is not None:  # the law of draws would lose the baseline
        value = bind_again(node)
        return value, total_log_prob(law_of_draws(node.measure), value)
    return drawn(node)


def log_density(program: Program, choices: Choices, address: str = "") -> Any:
    """The joint log density of a program at some choices, in nats, inside an objective.

    Where it can only be estimated (`ppl.SIR`), the log of an unbiased estimate: its mean is a lower bound.

    Args:
        program: A program.
        choices: A value for each of its latent addresses.
        address: A prefix for the choices of an estimate, needed where an objective makes two.
    """
    if not estimated_sites(program.staged.table):
        watched(program, choices)
        return program.log_density(choices)
    with scope.under(address):
        return scored(program, choices)


class _WithStrategies(Rewrite):
    """Gives choices other strategies: by address, or one for all the rest."""

    def __init__(self, strategies: Mapping[str, Strategy], rest: Strategy | None) -> None:
        self.strategies = strategies
        self.rest = rest

    def site(self, node: SampleSite, read: Any) -> Any:
        del read
        site = placed(node.site)
        strategy = self.strategies.get(node.address, site.grad if self.rest is None else self.rest)
        return bind_sample(site._replace(grad=strategy), node.measure, node.observed)


@dataclass(frozen=True)
class _Changed:
    """The model function of a program with other strategies; equal to all others with the same ones."""

    strategies: tuple[tuple[str, Strategy], ...] = ()
    rest: Strategy | None = None

    def __call__(self, program: Program) -> Any:
        return program.rewrite(_WithStrategies(dict(self.strategies), self.rest))


def held(program: Program) -> Program:
    """The program whose choices are drawn and held fixed, whatever strategies they have."""
    return Program.of(_Changed(rest=Noise()), (program,))


def with_strategies(program: Program, strategies: Mapping[str, Strategy]) -> Program:
    """The program with other gradient strategies for some of its choices.

    Args:
        program: A program.
        strategies: Strategies by address; the other choices keep theirs.

    Raises:
        AddressError: an address is no choice of the program.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @ppl.model
        ... def guide(p):
        ...     ppl.sample("z", dist.Bernoulli(p))
        >>> vi.strategies(vi.with_strategies(guide(0.3), {"z": vi.score()}))["z"].name
        'score'
    """
    for address in strategies:
        info = program.sites.get(address)
        if info is None or info.kind != "latent":
            raise AddressError(
                f"A gradient strategy was given for {address!r}, which is no latent choice of {program.name!r}.\n"
                f"Expected: one of {', '.join(map(repr, ch.latent_infos(program.staged)))}."
            )
    return Program.of(_Changed(tuple(sorted(strategies.items()))), (program,))
