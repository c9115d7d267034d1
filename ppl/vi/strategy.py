"""What a gradient strategy is: how the expectation over one choice is estimated, with an unbiased derivative.

    expect(node, run, rest) = an estimate of  E[rest(x)],  x ~ node.measure

whose value is unbiased for the expectation and whose derivative is unbiased for the derivative of the expectation,
given that `rest` (the remainder of the program, which returns the cost) has the same property. A strategy that needs no
look at the rest is *direct*: it says how a draw becomes a value, and which log densities the final cost is to multiply.
Direct strategies work inside loops, branches and lanes; the others run the rest several times, or in a way of their
own.

Lew, Huot, Staton, Mansinghka, *ADEV: sound automatic differentiation of expected values* (POPL 2023), in reverse mode:
the surrogate's derivative is taken by JAX.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from ppl.distributions.drawn import law_of_draws
from ppl.distributions.finite import outcomes
from ppl.errors import StrategyError
from ppl.semantics.keys import site_key
from ppl.semantics.protocol import Position, SampleSite
from ppl.semantics.scoring import draw
from ppl.vi.joint import joint_outcomes


class Totals(NamedTuple):
    """What direct choices leave for the end: the cost's derivative gains `cost * d slope - d offset`.

    `slope` is a sum of log densities (nats); `offset` the same sum with each term multiplied by its baseline. Only
    their derivatives matter.
    """

    slope: Any
    offset: Any


class Run(NamedTuple):
    """One evaluation of a surrogate: what travels along the program.

    Attributes:
        key: The key of the evaluation; a choice's own key depends on it, the address and the loop indices.
        strategies: The strategy of each site, by address.
        totals: What direct choices have left so far.
        memory: Running means of the cost by address, for baselines that learn from earlier steps.
        exact: Whether finite noise is summed out instead of drawn (what the laws do).
        primal: Whether only the value matters: every choice is drawn once and nothing is differentiated.
        sign: 1 where the objective is maximised, -1 where it is minimised (learned baselines need to know); None in a
            nested expectation, where nobody knows, and nothing is remembered.
    """

    key: Any
    strategies: Mapping[str, "Strategy"]
    totals: Totals
    memory: Mapping[str, Any]
    exact: bool = False
    primal: bool = False
    sign: float | None = 1.0


class Node(NamedTuple):
    """A choice as a strategy sees it: the site, and where in the control flow it is made."""

    sample: SampleSite
    where: Position

    @property
    def measure(self) -> Any:
        """The measure that draws follow: normalised, without masks and scales."""
        return law_of_draws(self.sample.measure)

    @property
    def address(self) -> str:
        """The address of the choice."""
        return self.sample.address

    def __str__(self) -> str:
        """Address and line, for messages."""
        return f"{self.address!r} ({self.sample.site.source})"


Rest = Callable[[Any, Run], Any]
"""The remainder of the program: from a choice's value to the cost."""


@runtime_checkable
class Strategy(Protocol):
    """An unbiased way to differentiate through one choice. Implementations are frozen dataclasses."""

    @property
    def direct(self) -> bool:
        """Whether the strategy needs no look at the rest of the program."""
        ...

    def expect(self, node: Node, run: Run, rest: Rest) -> Any:
        """The surrogate of the expected cost over this choice."""
        ...


@runtime_checkable
class Direct(Strategy, Protocol):
    """A strategy that needs no look at the rest of the program."""

    def made(self, node: Node, raw: Any, run: Run) -> tuple[Any, Totals]:
        """The value that the program goes on with, and what is left for the end."""
        ...


def nothing() -> Totals:
    """No log density yet."""
    zero = jnp.zeros((), jnp.result_type(float))
    return Totals(zero, zero)


def added(left: Totals, right: Totals) -> Totals:
    """Both."""
    return Totals(left.slope + right.slope, left.offset + right.offset)


def expect_directly(strategy: Direct, node: Node, run: Run, rest: Rest) -> Any:
    """What `expect` is for a direct strategy: draw, make, go on."""

    def then(raw: Any) -> Any:
        value, totals = strategy.made(node, raw, run)
        return rest(value, run._replace(totals=added(run.totals, totals)))

    return from_noise(node, run, then)


def from_noise(node: Node, run: Run, then: Callable[[Any], Any]) -> Any:
    """`then` of a draw; its exact mean over all draws where the run is exact (the weights are not differentiated)."""
    if not run.exact:
        return then(drawn(node, run))
    found = outcomes(node.measure)
    if found is None:
        raise StrategyError(
            f"The choice {node} has no finite support, so that an estimator cannot be checked exactly.\n"
            "Expected: finite choices only. Check it statistically, with ppl.testing.check_estimator."
        )
    values, log_probs = joint_outcomes(found)
    return weighted_sum(jax.lax.stop_gradient(jnp.exp(log_probs)), jax.vmap(then)(values))


def drawn(node: Node, run: Run) -> Any:
    """One draw with the choice's own key."""
    return draw(node.measure, site_key(run.key, node.address, node.where.loop), node.where.lanes)


def weighted_sum(weights: Any, costs: Any) -> Any:
    """The sum of weights times costs; a cost that is not finite counts for nothing where its weight is zero.

    Where its weight is not zero it shows in the value and not in the derivative: the sum itself may be the cost of an
    impossible outcome, whose derivative is multiplied by zero and must not be NaN.
    """
    finite = jnp.isfinite(costs)
    lost = jnp.where(finite | (weights == 0), 0.0, jax.lax.stop_gradient(costs))
    return jnp.sum(weights * jnp.where(finite, costs, 0.0) + lost, axis=0)


@jax.custom_jvp
def with_tangent(value: Any, scale: Any, x: Any) -> Any:
    """`value`, whose derivative gains `scale * dx`; `scale` itself is not differentiated.

    A value that is not finite gains nothing: it may be the cost of an impossible outcome, see `weighted_sum`.
    The idle `where` makes the value as batched as its derivative: a branch under `vmap` fails in JAX where it is not.
    """
    return jnp.where(jnp.ones((), bool), value, (scale * x).astype(jnp.result_type(value)))


@with_tangent.defjvp
def _with_tangent_jvp(primals: Any, tangents: Any) -> Any:
    value, scale, x = primals
    dvalue, _, dx = tangents
    return with_tangent(value, scale, x), dvalue + jnp.where(jnp.isfinite(value), scale, 0.0) * dx


def closed(cost: Any, run: Run) -> Any:
    """The cost at the end of the program, with the derivatives that direct choices owe it."""
    if run.primal:
        return jax.lax.stop_gradient(cost)
    with_slope = with_tangent(cost, cost, run.totals.slope)
    return with_tangent(with_slope, -jnp.ones_like(cost), run.totals.offset)
