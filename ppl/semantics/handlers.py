"""The handlers that run a program: forwards, simulate, joint density, terms by site, partial choices.

Each is one small class; control flow is the interpreter's business. None of them checks its reads: `Program` does.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppl.distributions.density import log_prob
from ppl.semantics.estimated import Estimated, refuse_density
from ppl.semantics.interpreter import run
from ppl.semantics.keys import site_key
from ppl.semantics.protocol import Handler, Outcome, Position, SampleSite
from ppl.semantics.scoring import drawn, total_log_prob
from ppl.semantics.site import Site


class Totals(NamedTuple):
    """`log_density`: everything, in nats; `log_weight`: what importance weighting counts."""

    log_density: Any
    log_weight: Any


def _zero() -> Any:
    return jnp.zeros((), jnp.result_type(float))


def _sum(log_weight: Any) -> Any:
    return jnp.sum(log_weight).astype(jnp.result_type(float))


class Forward(Handler):
    """Draw each latent choice from its measure unless it is given. Nothing is weighed or written."""

    def __init__(self, key: Any) -> None:
        self.key = key

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """The observed value, the given one, or a fresh draw: the one that `Simulate` makes."""
        given = node.observed if read is None else read
        if given is None:
            given, _ = drawn(node.measure, site_key(self.key, node.address, where.loop), where.lanes)
        return Outcome(given, ())


class Simulate(Handler):
    """Draw each latent choice from its measure unless it is given; weigh by what is given, observations and factors.

    Writes the choices, given ones included, and the deterministic values.
    """

    def __init__(self, key: Any) -> None:
        self.key = key

    def zero(self) -> Totals:
        """No density yet."""
        return Totals(_zero(), _zero())

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """The observed value, the given one, or a fresh draw."""
        given = node.observed if read is None else read
        if isinstance(node.measure, Estimated):
            return self._estimated(node, given, where)
        if given is None:
            value, excess = drawn(node.measure, site_key(self.key, node.address, where.loop), where.lanes)
            return Outcome(value, Totals(total_log_prob(node.measure, value), excess), value)
        score = total_log_prob(node.measure, given)
        return Outcome(given, Totals(score, score), given if node.observed is None else None)

    def _estimated(self, node: SampleSite, given: Any, where: Position) -> Outcome:
        """A draw with its estimated density, or an estimate of the density of what is given."""
        if given is None:
            value, log_density = drawn_estimate(node, self.key, where)
            return Outcome(value, Totals(log_density, _zero()), value)
        score = scored_estimate(node, given, self.key, where)
        return Outcome(given, Totals(score, score), given if node.observed is None else None)

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """A factor counts in both totals."""
        del site, where
        return Outcome(None, Totals(_sum(log_weight), _sum(log_weight)))

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """Record the value."""
        del site, where
        return Outcome(None, self.zero(), value)


def drawn_estimate(node: SampleSite, key: Any, where: Position) -> tuple[Any, Any]:
    """A draw of an estimated measure, and the log of a weight with E[1 / w | draw] = 1 / density (nats)."""
    value, log_density = _ran(node.measure.weighted(), node, key, where)
    return value, _sum(log_density)


def scored_estimate(node: SampleSite, value: Any, key: Any, where: Position) -> Any:
    """The log of an unbiased estimate of an estimated measure's density (nats)."""
    return _sum(_ran(node.measure.estimate(value), node, key, where))


def _ran(program: Any, node: SampleSite, key: Any, where: Position) -> Any:
    """The value of a program that is run at a site: with a key of its own, in the lanes around the site."""
    staged = program.staged
    handler = Simulate(site_key(key, node.address, where.loop))
    outs = run(staged.code, program.dynamic, handler, {}, where._replace(loop=())).outs
    return jax.tree.unflatten(staged.out_tree, outs)


class Scoring(Handler):
    """The base of handlers whose total is a log density in nats: factors add to it, recorded values do not."""

    def zero(self) -> Any:
        """Zero nats."""
        return _zero()

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """Add a log weight."""
        del site, where
        return Outcome(None, _sum(log_weight))


class Density(Scoring):
    """The joint log density of choices that are all given. Writes nothing."""

    scores_given = True

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Score the given or observed value."""
        del where
        if isinstance(node.measure, Estimated):
            refuse_density([node.site])
        value = read if node.observed is None else node.observed
        return Outcome(value, total_log_prob(node.measure, value))


class Values(Handler):
    """The values of a program whose choices are all given; nothing is scored."""

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """The given or observed value."""
        del where
        return Outcome(read if node.observed is None else node.observed, ())


class Term(NamedTuple):
    """What `Terms` writes at a site: its log density (batch-shaped) and the value scored."""

    log_density: Any
    value: Any


class Terms(Handler):
    """The log density of every site by itself, with given choices. Writes a `Term` a site."""

    scores_given = True

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Score the given or observed value and write both."""
        del where
        value = read if node.observed is None else node.observed
        return Outcome(value, (), Term(jnp.asarray(log_prob(node.measure, value)), value))

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """Write the log weight."""
        del site, where
        return Outcome(None, (), Term(log_weight, ()))

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """Write the value."""
        del site, where
        return Outcome(None, (), value)
