"""Running a program inside another one with its estimated densities opened.

    simulated(program) = (choices, log density),    scored(program, choices) = log density

Every choice that is drawn is bound as a site of the program being traced, and keeps its gradient strategy. A measure
whose density can only be estimated (`Estimated`) becomes the sites of its estimate. So the pair that `simulated` gives
has E[1 / density | choices] = 1 / p(choices), what `scored` gives has mean p(choices), and both are the density itself
where nothing is estimated.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from ppl.distributions.drawn import law_of_draws
from ppl.semantics import choices as ch
from ppl.semantics import scope
from ppl.semantics.estimated import Estimated, estimated_sites
from ppl.semantics.jaxpr import factor_p
from ppl.semantics.protocol import Choices, Handler, Outcome, Position, SampleSite
from ppl.semantics.rewrites import Rewrite, bind_again, placed
from ppl.semantics.scoring import total_log_prob
from ppl.semantics.site import Site


class Scores(NamedTuple):
    """Log densities in nats: of what weighs, and of the choices that a program draws from its own measure."""

    log_weight: Any
    log_free: Any

    @property
    def log_density(self) -> Any:
        """Everything."""
        return self.log_weight + self.log_free


def _nats(number: Any = 0.0) -> Any:
    return jnp.sum(jnp.asarray(number, jnp.result_type(float)))


Draw = Callable[[SampleSite], tuple[Any, Any]]
"""From a site to a value that is bound there, and its log density (nats)."""


class Opens(Handler):
    """Binds again what is not given, and adds up log densities. Writes the latent choices.

    Args:
        free: The choices (site addresses) whose densities do not count as weight.
        drawn_only: Whether observations and factors count for nothing, as in a proposal.
        draw: How to bind a choice that is not given; by default as it is.
    """

    emits = True

    def __init__(
        self, free: frozenset[str] = frozenset(), *, drawn_only: bool = False, draw: Draw | None = None
    ) -> None:
        self.free = free
        self.drawn_only = drawn_only
        self.draw = drawn if draw is None else draw

    def zero(self) -> Scores:
        """Zero nats."""
        return Scores(_nats(), _nats())

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """A draw with its density, or the density of what is given."""
        del where
        if node.observed is not None:
            score = _nats() if self.drawn_only else density_of(node, node.observed)
            return Outcome(node.observed, Scores(score, _nats()))
        value, log_law = self.draw(node) if read is None else (read, density_of(node, read, as_law=True))
        return Outcome(value, self._scores(node, value, log_law), value)

    def _scores(self, node: SampleSite, value: Any, log_law: Any) -> Scores:
        """Where the law of draws is another than the measure (masked, scaled, improper), the difference weighs."""
        free = node.address in self.free
        if self.drawn_only or isinstance(node.measure, Estimated) or law_of_draws(node.measure) is node.measure:
            return Scores(_nats(), log_law) if free else Scores(log_law, _nats())
        full = total_log_prob(node.measure, value)
        return Scores(minus(full, log_law), log_law) if free else Scores(full, _nats())

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """A factor weighs."""
        del site, where
        return Outcome(None, self.zero() if self.drawn_only else Scores(_nats(log_weight), _nats()))


def minus(left: Any, right: Any) -> Any:
    """The difference of two log densities; minus infinity where the first is."""
    return jnp.where(left == -jnp.inf, -jnp.inf, left - right)


def drawn(node: SampleSite) -> tuple[Any, Any]:
    """A choice bound again, and its log density (or the estimate that comes with the draw)."""
    if isinstance(node.measure, Estimated):
        with scope.under(node.address):
            return node.measure.weighted().rewrite(Rewrite())
    law = law_of_draws(node.measure)
    value = bind_again(node._replace(measure=law))
    return value, total_log_prob(law, value)


def density_of(node: SampleSite, value: Any, *, as_law: bool = False) -> Any:
    """The log density of a given value, or an estimate of it."""
    if isinstance(node.measure, Estimated):
        with scope.under(node.address):
            return node.measure.estimate(value).rewrite(Rewrite())
    return total_log_prob(law_of_draws(node.measure) if as_law else node.measure, value)


def simulated(program: Any, draw: Draw | None = None) -> tuple[Choices, Any]:
    """Bind a program's sites in the model being traced; returns its choices and their log density (nats)."""
    _, result = program.run(Opens(draw=draw))
    return ch.flatten(result.writes, program.staged, ("latent",)), result.total.log_density


def scored(program: Any, choices: Choices) -> Any:
    """The log density of a program at some choices (nats); estimates of it are bound as sites."""
    staged = program.staged
    return program.run(Opens(), ch.checked(choices, staged, "score", complete=True))[1].total.log_density


class Explicit(Rewrite):
    """Binds every choice again; those of estimated measures with all auxiliary choices."""

    def site(self, node: SampleSite, read: Any) -> Any:
        """Open an estimated measure."""
        del read
        if not isinstance(node.measure, Estimated):
            return bind_again(node)
        with scope.under(node.address):
            if node.observed is None:
                return node.measure.explicit().rewrite(Rewrite())
            log_weight = node.measure.estimate(node.observed).rewrite(Rewrite())
            factor_p.bind(log_weight, site=placed(Site("estimate", "factor", node.site.source)))
            return node.observed


def explicit(program: Any) -> Any:
    r"""The same measure with the auxiliary choices of every estimated density among its choices.

    Args:
        program: A program. Of `p.marginal(kept, ppl.SIR(n, r))` it becomes the program over kept choices x and
            auxiliary ones u with density $p(u_1, x) \prod_{i>1} r(u_i | x) \cdot \frac1n \sum_i w_i / w_1$, which is
            $\prod_i r(u_i | x)$ times the estimate of p(x): its marginal on x is p(x) exactly, whatever n is.

    Returns:
        A program over more addresses, with an exact density: any MCMC method moves its choices (pseudo-marginal MCMC),
        SMC and enumeration run it.
    """
    return program if not estimated_sites(program.staged.table) else type(program).of(_explicit, (program,))


def _explicit(program: Any) -> Any:
    return program.rewrite(Explicit())
