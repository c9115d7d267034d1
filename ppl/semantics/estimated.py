"""Measures whose density can only be estimated: the protocol, and what to say where a density is asked for.

    weighted()      a program with value (x, log w):  x follows the measure,  E[1 / w | x] = 1 / p(x)
    estimate(x)     a program with value log w:       w >= 0,                 E[w] = p(x)
    explicit()      a program with value x over more choices, whose marginal on x is the measure

Each is made of ordinary sites, so that estimates nest, are enumerated exactly, run with a key, and keep their gradient
strategies inside an objective. Neither of the first two contracts follows from the other.

Lew, Ghavamizadeh, Rinard, Mansinghka, *Probabilistic programming with stochastic probabilities* (PLDI 2023).
"""

from collections.abc import Iterable
from typing import Any, NoReturn, Protocol, runtime_checkable

from ppl.errors import MeasureError


@runtime_checkable
class Estimated(Protocol):
    """A measure over a dict of choices whose density is estimated; a pytree, like every measure."""

    def weighted(self) -> Any:
        """A program with value `(choices, log weight)`: a draw, and an estimate whose inverse is unbiased."""
        ...

    def estimate(self, value: Any) -> Any:
        """A program whose value is the log of an unbiased estimate of the density at `value` (nats)."""
        ...

    def explicit(self) -> Any:
        """A program over the choices and all auxiliary ones, with an exact density; its value is the choices."""
        ...


def is_estimated(entry: Any) -> bool:
    """Whether an entry of a program's table of sites is a choice or observation of an estimated measure."""
    tree = entry.signature.measure_tree
    data = None if tree is None else tree.node_data()
    return data is not None and isinstance(data[0], type) and issubclass(data[0], Estimated)


def estimated_sites(table: dict[str, Any]) -> list[Any]:
    """The sites of a program whose densities can only be estimated."""
    return [entry.site for entry in table.values() if is_estimated(entry)]


def refuse_density(sites: Iterable[Any]) -> NoReturn:
    """Raise where an exact density was asked of such sites."""
    where = ", ".join(f"{site.address or 'the marginal'!r} ({site.source})" for site in sites)
    raise MeasureError(
        f"The exact density was asked of a measure whose density can only be estimated: {where}.\n"
        "Expected: a key, since every estimate is a draw.\n"
        "Fix: program.estimate_log_density(key, choices), or program.simulate(key) for a draw with its density; "
        "for MCMC and SMC ppl.explicit(program), whose auxiliary choices are choices like all others; "
        "method=ppl.Exact() where they are finite."
    )
