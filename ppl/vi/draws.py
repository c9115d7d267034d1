"""The handler that draws direct choices, and the question which equations it cannot run."""

from typing import Any

import jax
from jax import lax

from ppl.errors import StrategyError
from ppl.semantics.influence import held
from ppl.semantics.protocol import Handler, Outcome, Position, SampleSite
from ppl.semantics.site import Site
from ppl.vi.strategy import Direct, Node, Run, Totals, drawn, nothing


class Draws(Handler):
    """Draws choices whose strategies are direct; its total is what they leave for the end."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def zero(self) -> Totals:
        """Nothing left yet."""
        return nothing()

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Draw the choice, and make of it what its strategy says."""
        del read
        choice = Node(node, where)
        raw = drawn(choice, self.run)
        if self.run.primal:
            return Outcome(jax.tree.map(lax.stop_gradient, raw), nothing())
        strategy = self.run.strategies[node.address]
        assert isinstance(strategy, Direct)
        return Outcome(*strategy.made(choice, raw, self.run))

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """An objective has no weight."""
        del log_weight, where
        raise StrategyError(
            f"The objective holds the factor {site.address!r} ({site.source}).\n"
            "Expected: choices only; an objective returns its cost.\n"
            "Fix: add the log weight to the cost, or score the program with vi.log_density."
        )


def opens(equation: Any, run: Run) -> bool:
    """Whether an equation is, or holds, a choice that needs the rest of the program as a function."""
    if run.primal and not run.exact:
        return False
    addresses = [address for address in held(equation) if address in run.strategies]
    return any(run.exact or not run.strategies[address].direct for address in addresses)
