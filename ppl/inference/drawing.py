"""Run a program whose only randomness is latent: what an inference algorithm that is itself a program becomes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppl.semantics.handlers import Scoring
from ppl.semantics.keys import site_key
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Outcome, Position, SampleSite
from ppl.semantics.scoring import drawn, total_log_prob
from ppl.semantics.site import Site
from ppl.typing import PRNGKey


class Draw(Scoring):
    """Draw latent choices; the total is the log weight of observations, factors and unusual laws of draws (nats).

    Writes choices and recorded values, and does not score what it draws: a filter's time is in its draws.
    """

    def __init__(self, key: Any) -> None:
        self.key = key

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """The observed value, or a draw."""
        del read
        if node.observed is not None:
            return Outcome(node.observed, total_log_prob(node.measure, node.observed))
        value, excess = drawn(node.measure, site_key(self.key, node.address, where.loop), where.lanes)
        return Outcome(value, excess, value)

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """Record the value."""
        del site, where
        return Outcome(None, jnp.zeros((), jnp.result_type(float)), value)


class Drawn(NamedTuple):
    """A run: its value, its log weight (nats), what was written by site, and which branches were taken."""

    value: Any
    log_weight: Any
    writes: Choices
    masks: Choices


def draw(program: Program, key: PRNGKey) -> Drawn:
    """Run a program; to be called under `jax.jit`, where what nobody reads costs nothing."""
    value, result = program.run(Draw(key))
    return Drawn(jax.tree.map(jnp.asarray, value), result.total, result.writes, result.masks)
