"""Score-function derivatives (REINFORCE): the cost is multiplied by the derivative of the draw's log density.

    d E[f(x)] = E[df(x) + (f(x) - b) d log p(x)],   for any baseline b that x does not influence

Williams, *Simple statistical gradient-following algorithms* (1992); Mnih and Gregor (2014) for learned baselines.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ppl.distributions.density import log_prob
from ppl.vi.baselines import Baseline, Constant
from ppl.vi.strategy import Node, Rest, Run, Strategy, Totals, expect_directly


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
        score = jnp.sum(log_prob(node.measure, value)).astype(jnp.result_type(float))
        return value, Totals(score, jax.lax.stop_gradient(self.baseline.at(node, run)) * score)

    def expect(self, node: Node, run: Run, rest: Rest) -> Any:
        """The rest at the draw."""
        return expect_directly(self, node, run, rest)


def score(baseline: float | Baseline = 0.0) -> Score:
    """The score function (REINFORCE), with a baseline."""
    return Score(Constant(float(baseline)) if isinstance(baseline, int | float) else baseline)


def baselines(strategies: Mapping[str, Strategy]) -> dict[str, Baseline]:
    """The baseline of each choice that has one."""
    return {address: s.baseline for address, s in strategies.items() if isinstance(s, Score)}
