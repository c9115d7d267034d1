"""Handlers that make a new program of an old one: they bind sites instead of giving them a meaning.

Condition, intervene, substitute, rename: each is run over a staged program while another is being traced, so that the
result is again a plain jaxpr with `sample` and `factor`. Reads hold the values that they need, by address.
"""

from typing import Any

import jax

from ppl.semantics import scope
from ppl.semantics.binding import bind_sample
from ppl.semantics.jaxpr import deterministic_p, factor_p
from ppl.semantics.measures import join
from ppl.semantics.protocol import Handler, Outcome, Position, SampleSite
from ppl.semantics.site import Site


def placed(site: Site) -> Site:
    """The site under the prefix of the program being traced."""
    return site._replace(address=join(scope.current().prefix, site.address))


class Rewrite(Handler):
    """The identity rewriting: every site is bound again, under the current prefix. The base of all rewritings.

    `site` is the hook: it says what becomes of one `sample` site.
    """

    emits = True

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Bind what `site` makes of the choice."""
        del where
        return Outcome(self.site(node, read), ())

    def site(self, node: SampleSite, read: Any) -> Any:
        """Bind the site as it is."""
        del read
        return bind_again(node)

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """Bind the factor again."""
        del where
        factor_p.bind(log_weight, site=placed(site))
        return Outcome(None, self.zero())

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """Bind the recorded value again."""
        del where
        bind_deterministic(site, value)
        return Outcome(None, self.zero())


def bind_again(node: SampleSite) -> Any:
    """Bind a site as it was, under the current prefix."""
    return bind_sample(placed(node.site), node.measure, node.observed)


def bind_deterministic(site: Site, value: Any) -> None:
    """Record a value under a site's address and the current prefix."""
    leaves, tree = jax.tree.flatten(value)
    deterministic_p.bind(*leaves, site=placed(site), value_tree=tree)


def record_choice(node: SampleSite, value: Any) -> None:
    """Record a value under the address of a choice that the rewriting took away."""
    bind_deterministic(node.site._replace(kind="deterministic", event_rank=node.signature.event_rank), value)


class Condition(Rewrite):
    """Sites with a value become observations (`kind="observed"`) or fixed choices (`kind="fixed"`)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def site(self, node: SampleSite, read: Any) -> Any:
        """Observe the given value; leave other sites alone."""
        if read is None:
            return bind_again(node)
        return bind_sample(placed(node.site._replace(kind=self.kind)), node.measure, read)


class Intervene(Rewrite):
    """Sites with a value are cut out and replaced by it: no density, the rest as before (Pearl's `do`)."""

    def site(self, node: SampleSite, read: Any) -> Any:
        """Replace the choice by the value."""
        if read is None:
            return bind_again(node)
        record_choice(node, read)
        return read
