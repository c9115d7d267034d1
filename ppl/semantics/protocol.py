"""What a handler is: the protocol between the interpreter and the meanings of sites.

A handler reads a value by address and returns an `Outcome`: the site's value, an *additive* contribution to the run's
total, and what it writes under the address.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppl.semantics.site import Signature, Site

Choices = dict[str, Any]


class Position(NamedTuple):
    """Where in the control flow a site is met: loop indices from the outside in, lanes around, an unbounded loop."""

    loop: tuple[Any, ...] = ()
    lanes: int = 0
    unbounded: bool = False


TOP = Position()
"""Outside all loops and lanes."""


class Outcome(NamedTuple):
    """What a handler makes of a site: its value, its additive contribution, and what it writes (None: nothing)."""

    value: Any
    increment: Any
    write: Any = None


class Result(NamedTuple):
    """What a run gives: outputs, the total of the contributions, and the writes and masks by address."""

    outs: list[Any]
    total: Any
    writes: Choices
    masks: Choices


class SampleSite(NamedTuple):
    """A `sample` equation as a handler sees it."""

    site: Site
    measure: Any
    observed: Any
    signature: Signature

    @property
    def address(self) -> str:
        """The site's address."""
        return self.site.address


class Handler:
    """The meaning of sites. Subclasses are final; a method left out keeps the neutral meaning.

    `emits` says that the handler binds sites of its own (a rewriting); then lanes stay `lanes`. `scores_given` says
    that every choice has a value to read and that the handler only scores; then loops whose states those values
    settle are scored side by side.
    """

    emits = False
    scores_given = False

    def zero(self) -> Any:
        """The neutral total."""
        return ()

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Give a `sample` site its value."""
        raise NotImplementedError

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """Take a log weight."""
        del site, log_weight, where
        return Outcome(None, self.zero())

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """Take a recorded value."""
        del site, value, where
        return Outcome(None, self.zero())


def add(left: Any, right: Any) -> Any:
    """Add two totals."""
    return jax.tree.map(jnp.add, left, right)
