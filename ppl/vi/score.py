"""Score-function derivatives (REINFORCE): the cost is multiplied by the derivative of the draw's log density.

    d E[f(x)] = E[df(x) + (f(x) - b) d log p(x)],   for any baseline b that x does not influence

Williams, *Simple statistical gradient-following algorithms* (1992); Mnih and Gregor (2014) for learned baselines; Kool,
van Hoof, Welling, *Buy 4 REINFORCE samples, get a baseline for free* (2019) for leave-one-out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ppl.distributions.density import log_prob
from ppl.distributions.drawn import law_of_draws
from ppl.errors import StrategyError
from ppl.vi.baselines import Baseline, Constant, LeaveOneOut, learned
from ppl.vi.lanes import Lanes
from ppl.vi.strategy import Node, Rest, Run, Strategy, Totals, added, expect_directly, from_noise, with_tangent


@dataclass(frozen=True)
class Score:
    """The score function with a baseline.

    Attributes:
        baseline: What is subtracted from the cost.
    """

    baseline: Baseline = Constant(0.0)
    direct: bool = True

    def made(self, node: Node, raw: Any, run: Run) -> tuple[Any, Totals]:
        """The draw, held fixed; its log density is owed."""
        value = jax.tree.map(jax.lax.stop_gradient, raw)
        slope, offset = owed(node, value, run)
        return value, Totals(slope, offset + jax.lax.stop_gradient(self.baseline.at(node, run)) * slope)

    def expect(self, node: Node, run: Run, rest: Rest) -> Any:
        """The rest at the draw."""
        return expect_directly(self, node, run, rest)


@dataclass(frozen=True)
class ScoreOfCopies:
    """The score function at several independent draws; the estimate is the mean over them.

    Attributes:
        copies: How many draws; the rest of the program is evaluated at each, side by side, with noise of its own.
        baseline: What is subtracted from the cost of each.
    """

    copies: int
    baseline: Baseline
    direct: bool = False

    def expect(self, node: Node, run: Run, rest: Rest) -> Any:
        """The mean of the rest over the draws."""
        keys = jax.random.split(run.key, self.copies)

        def one(value: Any, key: Any) -> tuple[Any, Any]:
            totals = owed(node, value, run)
            return rest(value, run._replace(key=key, totals=added(run.totals, totals))), totals.slope

        def then(values: Any) -> Any:
            costs, slopes = jax.vmap(one)(jax.tree.map(jax.lax.stop_gradient, values), keys)
            return jnp.mean(with_tangent(costs, -self._baselines(node, run, costs), slopes))

        return from_noise(_widened(node, self.copies), run, then)

    def _baselines(self, node: Node, run: Run, costs: Any) -> Any:
        if isinstance(self.baseline, LeaveOneOut):
            return jax.lax.stop_gradient(jnp.sum(costs) - costs) / (self.copies - 1)
        return jnp.broadcast_to(self.baseline.at(node, run), costs.shape)


def _widened(node: Node, copies: int) -> Node:
    """The choice made several times, independently; a leading axis of its value."""
    leaves = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (copies, *jnp.shape(leaf))), node.measure)
    return node._replace(sample=node.sample._replace(measure=Lanes(leaves, copies)))


def owed(node: Node, value: Any, run: Run) -> Totals:
    """What a draw leaves for the end: its log density, and the regression of a baseline that learns.

    With the log density s, the baseline b and the objective's sign, the final cost's derivative gains

        (cost - b) ds + sign (cost - b) db  =  cost d(s + sign b) - d(b' s + sign b^2 / 2),   b' = b held fixed.
    """

    def part(measure: Any, value: Any) -> Totals:
        scores = log_prob(law_of_draws(measure), value)
        number, slope = learned(measure), jnp.sum(scores).astype(jnp.result_type(float))
        if number is None:
            return Totals(slope, jnp.zeros_like(slope))
        if run.sign is None:
            raise _unlearnable(node)
        number = jnp.broadcast_to(number, scores.shape)
        offset = jnp.sum(jax.lax.stop_gradient(number) * scores) + run.sign * jnp.sum(number**2) / 2
        return Totals(slope + run.sign * jnp.sum(number), offset)

    measure = node.sample.measure
    if not isinstance(measure, Lanes):
        return part(measure, value)
    return jax.tree.map(jnp.sum, jax.vmap(part)(measure.measure, value))


def score(baseline: float | Baseline = 0.0, *, copies: int = 1) -> Score | ScoreOfCopies:
    """The score function (REINFORCE), with a baseline.

    Valid where the support does not move with the parameters; the rest of the objective may jump in the value.

    Args:
        baseline: What is subtracted from the cost to lessen the variance: a number, `vi.moving_average(decay)`, or
            `vi.leave_one_out()`. One that is learned comes with the distribution, `vi.baseline(distribution, value)`.
        copies: How many independent draws to average; the rest of the objective runs at each.

    Raises:
        StrategyError: leave-one-out with a single copy.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @vi.objective
        ... def cost(rate):
        ...     strategy = vi.score(vi.leave_one_out(), copies=8)
        ...     return ppl.sample("n", dist.Poisson(rate), grad=strategy).astype(float) ** 2
        >>> grads = jax.vmap(lambda key: cost.grad(key, 1.5))(jax.random.split(jax.random.key(0), 2000))
        >>> bool(abs(grads.mean() - 4.0) < 0.5)  # d/dr of r + r^2
        True
    """
    chosen = baseline if isinstance(baseline, Baseline) else Constant(float(baseline))
    if copies < 1 or (copies == 1 and isinstance(chosen, LeaveOneOut)):
        raise StrategyError(
            f"vi.score was given copies={copies} with the baseline {chosen}.\n"
            "Expected: one copy or more; for vi.leave_one_out() two or more, vi.score(vi.leave_one_out(), copies=4)."
        )
    return Score(chosen) if copies == 1 else ScoreOfCopies(copies, chosen)


def baselines(strategies: Mapping[str, Strategy]) -> dict[str, Baseline]:
    """The baseline of each choice that has one."""
    return {address: s.baseline for address, s in strategies.items() if isinstance(s, Score | ScoreOfCopies)}


def _unlearnable(node: Node) -> StrategyError:
    return StrategyError(
        f"The choice {node} has a baseline that learns (vi.baseline), inside a nested expectation (vi.expect).\n"
        "Expected: a learned baseline in an objective itself; how a nested cost enters the whole is not known there, "
        "and so neither is the sign of the regression.\nFix: vi.score(vi.leave_one_out(), copies=4) there."
    )
