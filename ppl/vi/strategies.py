"""The table of gradient strategies, and which of them a program's choices have."""

import html
from collections.abc import Callable
from typing import Any, NamedTuple

from ppl.semantics.program import Program
from ppl.vi.enumeration import Enumerate
from ppl.vi.implicit_derivatives import Implicit, implicit
from ppl.vi.pathwise import Reparam, reparam
from ppl.vi.resolution import Choice, by_rule, choices_in, resolved
from ppl.vi.score import Score, ScoreOfCopies, score
from ppl.vi.strategy import Strategy
from ppl.vi.weak_derivatives import MeasureValued, measure_valued


def enumerate() -> Enumerate:
    """Sum over a finite support."""
    return Enumerate()


STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "reparam": reparam,
    "score": score,
    "enumerate": enumerate,
    "measure_valued": measure_valued,
    "implicit": implicit,
}
"""Every strategy by name."""


class Chosen(NamedTuple):
    """The strategy of one choice.

    Attributes:
        name: Its name in the table of strategies.
        strategy: The strategy itself.
        default: Whether the site names none.
        why: Why it is the default, or that it was chosen.
        distribution: The choice's distribution.
        source: The line of the choice.
    """

    name: str
    strategy: Strategy
    default: bool
    why: str
    distribution: str
    source: Any


_COLUMNS = ("address", "strategy", "why", "distribution", "line")


class Strategies(dict[str, Chosen]):
    """The strategies of a program's choices by address, shown as a table."""

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table, without its head."""
        marks = {True: "default: ", False: ""}
        return [(a, c.name, marks[c.default] + c.why, c.distribution, str(c.source)) for a, c in self.items()]

    def __repr__(self) -> str:
        """Aligned columns."""
        rows = [_COLUMNS, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
        return "\n".join("  ".join(row).rstrip() for row in padded)

    def _repr_html_(self) -> str:
        """The table for Jupyter."""
        head = "".join(f'<th style="text-align:left">{column}</th>' for column in _COLUMNS)
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in self.rows())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    return f'<td style="text-align:left"><code>{html.escape(text)}</code></td>'


NAMES: dict[type, str] = {
    Reparam: "reparam",
    Score: "score",
    ScoreOfCopies: "score",
    Enumerate: "enumerate",
    MeasureValued: "measure_valued",
    Implicit: "implicit",
}


def strategies(program: Program) -> Strategies:
    """The gradient strategy of each choice of an objective or guide, by address; its repr is a table.

    Args:
        program: A program, or an objective at some parameters.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @ppl.model
        ... def guide(p):
        ...     ppl.sample("b", dist.Bernoulli(p))
        ...     ppl.sample("x", dist.Normal(p, 1.0), grad=vi.score())
        >>> for row in vi.strategies(guide(0.5)).rows():
        ...     print(row[:4])
        ('b', 'enumerate', 'default: 2 values', 'BernoulliProbs')
        ('x', 'score', 'chosen at the site', 'Normal')
    """
    latent = [choice for choice in choices_in(program.jaxpr) if choice.equation.params["site"].kind == "latent"]
    found = resolved(program.jaxpr)
    return Strategies({c.equation.params["site"].address: _chosen(c, found) for c in latent})


def _chosen(choice: Choice, found: dict[str, Strategy]) -> Chosen:
    site = choice.equation.params["site"]
    strategy, default = found[site.address], site.grad is None
    why = by_rule(choice).why if default else "chosen at the site"
    name = NAMES.get(type(strategy), type(strategy).__name__.lower())
    return Chosen(name, strategy, default, why, choice.equation.params["signature"].name, site.source)
