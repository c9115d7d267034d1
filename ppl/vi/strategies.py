"""The table of gradient strategies, and which of them a program's choices have."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ppl.semantics.program import Program
from ppl.vi.enumeration import Enumerate
from ppl.vi.measure_valued import MeasureValued, measure_valued
from ppl.vi.pathwise import Reparam, reparam
from ppl.vi.resolution import choices_in, resolved
from ppl.vi.score import Score, ScoreOfCopies, score
from ppl.vi.strategy import Strategy


def enumerate() -> Enumerate:
    """Sum over a finite support."""
    return Enumerate()


STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "reparam": reparam,
    "score": score,
    "enumerate": enumerate,
    "measure_valued": measure_valued,
}
"""Every strategy by name."""


class Chosen(NamedTuple):
    """The strategy of one choice: its name, itself, whether it is the default, and where the choice is."""

    name: str
    strategy: Strategy
    default: bool
    source: Any


NAMES: dict[type, str] = {
    Reparam: "reparam",
    Score: "score",
    ScoreOfCopies: "score",
    Enumerate: "enumerate",
    MeasureValued: "measure_valued",
}


def strategies(program: Program) -> dict[str, Chosen]:
    """The gradient strategy of each choice of an objective or guide, by address.

    Args:
        program: A program.
    """
    latent = [c for c in choices_in(program.jaxpr) if c.equation.params["site"].kind == "latent"]
    sites = {c.equation.params["site"].address: c.equation.params["site"] for c in latent}
    found = resolved(program.jaxpr)
    return {
        a: Chosen(NAMES.get(type(found[a]), type(found[a]).__name__), found[a], sites[a].grad is None, sites[a].source)
        for a in sites
    }
