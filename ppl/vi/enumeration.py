"""Enumerated choices: the rest of the program at every value at once, weighed by the probabilities."""

from dataclasses import dataclass
from typing import Any

import jax

from ppl.distributions.finite import outcomes
from ppl.errors import StrategyError
from ppl.vi.joint import joint_outcomes, joint_size
from ppl.vi.masses import joint_masses, masses
from ppl.vi.strategy import Node, Rest, Run, weighted_sum

MOST = 4096
"""The most joint values of one choice that are evaluated."""


@dataclass(frozen=True)
class Enumerate:
    """Sum over the support, vectorised: no variance from this choice, one evaluation of the rest a value.

    What the rest computes without the value is computed once. The later choices of all values share their noise.
    """

    direct: bool = False

    def expect(self, node: Node, run: Run, rest: Rest) -> Any:
        """The sum over the values of the choice."""
        found = outcomes(node.measure)
        if found is None:
            raise StrategyError(
                f"The choice {node} is to be enumerated, but its measure {node.sample.signature.name} has no finite "
                "support that is known while tracing.\nFix: vi.score() or vi.measure_valued() there."
            )
        if joint_size(found) > MOST:
            raise _too_many(node, found)
        values, _ = joint_outcomes(found)
        costs = jax.vmap(lambda value: rest(value, run))(values)
        return weighted_sum(joint_masses(masses(node.measure)), costs)


def _too_many(node: Node, found: Any) -> StrategyError:
    size, *batch = found.log_probs.shape
    return StrategyError(
        f"The choice {node} is to be enumerated: {size} values for each of the elements of a batch of shape "
        f"{tuple(batch)}, {joint_size(found)} values together (at most {MOST}).\n"
        "Fix: where the cost is a sum over the batch, give each element an expectation of its own, "
        "ppl.vmap(lambda x: vi.expect(objective(x))); or use vi.measure_valued() or vi.score()."
    )
