"""Weighted populations: many runs of one program at once, from one key.

    population(program, key, n): (choices, weight exp(log_weight)) represents the program's measure, run by run

The interpreter runs once, in n lanes with a shared key, so that a batch costs what hand-written batched draws cost.
Choices are drawn from the *law of draws* of their measures, which is another than their density where a site is
masked, scaled or improper; the weight makes up for it. Law: E[sum_i w_i f(x_i)] / n is the integral of f against the
measure.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from ppl.distributions.drawn import law_of_draws
from ppl.semantics import choices as ch
from ppl.semantics.estimated import Estimated
from ppl.semantics.handlers import drawn_estimate, scored_estimate
from ppl.semantics.interpreter import run
from ppl.semantics.jaxpr import Lane
from ppl.semantics.keys import site_key
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Handler, Outcome, Position, Result, SampleSite
from ppl.semantics.scoring import draw, total_log_prob
from ppl.semantics.site import Site
from ppl.typing import PRNGKey

LANES = Position(lanes=1)
"""Where a program runs when it runs in lanes of ours."""


class Totals(NamedTuple):
    """Log density of what was drawn under the law that it was drawn from, and the log importance weight (nats)."""

    log_proposal: Any
    log_weight: Any


class Given(NamedTuple):
    """A value for a site from outside, and whether it is really there (None: always)."""

    value: Any
    made: Any


class Runs(NamedTuple):
    """Runs of a program, with a leading axis of particles everywhere.

    Attributes:
        choices: Latent choices by address.
        masks: For addresses inside branches, whether the choice was made.
        value: The return values.
        deterministic: Recorded values by address.
        log_proposal: Log density of the choices under the law that they were drawn from (nats); None if not asked for.
        log_weight: Log weight that makes the population stand for the program (nats).
    """

    choices: dict[str, Shaped[Array, "particles ..."]]
    masks: dict[str, Bool[Array, "particles ..."]]
    value: Any
    deterministic: dict[str, Any]
    log_proposal: Float[Array, "particles"] | None
    log_weight: Float[Array, "particles"]


class Propose(Handler):
    """Draw what is not given; weigh by the observations, the factors, what is given, and unusual laws of draws."""

    def __init__(self, key: Any) -> None:
        self.key = key

    def zero(self) -> Totals:
        """Nothing drawn yet."""
        return Totals(_nats(0.0), _nats(0.0))

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """The observed value, the given one, or a draw."""
        if node.observed is not None:
            return Outcome(node.observed, Totals(_nats(0.0), self._score(node, node.observed, where)))
        if read is not None and read.made is None:
            return Outcome(read.value, Totals(_nats(0.0), self._score(node, read.value, where)), read.value)
        outcome = self._drawn(node, where)
        return outcome if read is None else _kept_where(read, self._score(node, read.value, where), outcome)

    def _score(self, node: SampleSite, value: Any, where: Position) -> Any:
        """The log density of a value; an unbiased estimate where it can only be estimated."""
        if isinstance(node.measure, Estimated):
            return scored_estimate(node, value, self.key, where)
        return total_log_prob(node.measure, value)

    def _drawn(self, node: SampleSite, where: Position) -> Outcome:
        if isinstance(node.measure, Estimated):
            value, log_density = drawn_estimate(node, self.key, where)
            return Outcome(value, Totals(log_density, _nats(0.0)), value)
        law = law_of_draws(node.measure)
        value = draw(law, site_key(self.key, node.address, where.loop), where.lanes)
        log_law = total_log_prob(law, value)
        excess = _nats(0.0) if law is node.measure else total_log_prob(node.measure, value) - log_law
        return Outcome(value, Totals(log_law, excess), value)

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """A factor is weight."""
        del site, where
        return Outcome(None, Totals(_nats(0.0), _nats(jnp.sum(log_weight))))

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """Record the value."""
        del site, where
        return Outcome(None, self.zero(), value)


def _kept_where(given: Given, score: Any, drawn: Outcome) -> Outcome:
    kept = Totals(_nats(0.0), score)
    value, totals = jax.tree.map(
        lambda old, new: jnp.where(given.made, old, new), (given.value, kept), (drawn.value, drawn.increment)
    )
    return Outcome(value, totals, value)


def _nats(number: Any) -> Any:
    return jnp.asarray(number, jnp.result_type(float))


def in_lanes(program: Program, handler: Handler, reads: Choices) -> tuple[Any, Result]:
    """Run a program inside a lane of ours; returns its value and the result (by site)."""
    staged = program.staged
    result = run(staged.code, program.dynamic, handler, reads, LANES)
    return jax.tree.unflatten(staged.out_tree, result.outs), result


def one_particle(program: Program, key: PRNGKey, given: dict[str, Given]) -> Runs:
    """One run inside a lane of ours; `given` is by flat address. For `over_lanes`."""
    staged = program.staged
    values = ch.checked({a: g.value for a, g in given.items()}, staged, "propose")
    made = {site: [given[i.address].made for i in staged.table[site].infos] for site in values}
    value, result = in_lanes(program, Propose(key), {s: Given(v, made[s][0]) for s, v in values.items()})
    recorded = ch.flatten(result.writes, staged, ("deterministic",))
    latent = ch.flatten(result.writes, staged, ("latent",))
    return Runs(latent, ch.spread(result.masks, staged), value, recorded, *result.total)


def over_lanes(function: Any, size: int) -> Any:
    """Run a function of no arguments in `size` lanes that share their keys; outputs get a leading axis."""
    return jax.vmap(function, axis_size=size, axis_name=Lane(0))()


@partial(jax.jit, static_argnums=2, static_argnames="scored")
def population(program: Program, key: PRNGKey, particles: int, *, scored: bool = False) -> Runs:
    """Independent runs of a program from its prior, weighted.

    Args:
        program: The program.
        key: One key for all runs.
        particles: How many runs.
        scored: Whether to compute `log_proposal` too, which costs the density of every choice.

    Returns:
        The population; compiled once a structure and size.
    """
    runs = over_lanes(lambda: one_particle(program, key, {}), particles)
    return runs if scored else runs._replace(log_proposal=None)


def replayed(program: Program, choices: dict[str, Any], size: int | None = None) -> Runs:
    """The runs that make given choices, with a leading axis of `size` runs; nothing is random, all is weight.

    Without `size` it is that of the choices, and 1 where there are none.
    """
    found = next((len(x) for x in jax.tree.leaves(choices)), 1)
    return _replayed(program, choices, found if size is None else size)


@partial(jax.jit, static_argnums=2)
def _replayed(program: Program, choices: dict[str, Any], size: int) -> Runs:
    key = jax.random.key(0)

    def one(given: dict[str, Any]) -> Runs:
        return one_particle(program, key, {a: Given(x, None) for a, x in given.items()})

    return jax.vmap(one, axis_size=size, axis_name=Lane(0))(choices)
