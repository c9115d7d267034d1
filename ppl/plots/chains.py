"""Figures of chains, by arviz-plots: traces, ranks, energies.

Law: what is drawn is `Posterior.to_arviz()`, so `/` in addresses is `.` in titles. It computes nothing.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ppl.errors import AddressError
from ppl.inference.posterior import Posterior
from ppl.interop.arviz import variable_names

MOST_VARIABLES = 12
COLORS = ("#4c78a8", "#d9480f", "#54a24b", "#b279a2", "#eeca3b", "#72b7b2", "#9d755d", "#7f7f7f")
"""Named, since arviz-plots 0.8 cannot read the triples that matplotlib 3.11 has as its defaults."""


def plot_trace(
    posterior: Posterior, path: str | os.PathLike[str] | None = None, addresses: Sequence[str] | None = None
) -> Any:
    """Draw the values of each scalar along its chains, with ticks where draws diverged.

    Args:
        posterior: draws of chains, without weights.
        path: a file to write; None to write none.
        addresses: which choices and deterministic values; the first 12 by default.

    Returns:
        The `arviz_plots.PlotCollection`.

    Raises:
        ImportError: arviz-plots is not installed.
        AddressError: an address is not one of the posterior's.
    """
    return _drawn(posterior, path, addresses, lambda plots: plots.plot_trace)


def plot_rank(
    posterior: Posterior, path: str | os.PathLike[str] | None = None, addresses: Sequence[str] | None = None
) -> Any:
    """Draw the ranks of each chain's draws among all: lines that leave the band are chains that disagree.

    Arguments, result and errors are those of `plot_trace`. Draws are taken as independent, so chains that move slowly
    leave the band too.

    Reference: Sailynoja, Burkner, Vehtari (2022).
    """
    return _drawn(posterior, path, addresses, lambda plots: plots.plot_rank)


def plot_energy(posterior: Posterior, path: str | os.PathLike[str] | None = None) -> Any:
    """Draw the distribution of the energy and of its changes, and E-BFMI by chain.

    Where the changes are much narrower than the energy, the momentum does not carry the chain through its tails.

    Args:
        posterior: draws of Hamiltonian chains.
        path: a file to write; None to write none.

    Returns:
        The `arviz_plots.PlotCollection`.

    Raises:
        ImportError: arviz-plots is not installed.
        AddressError: the method recorded no energy.
    """
    if "energy" not in posterior.stats:
        raise AddressError(
            f"The posterior by {posterior.method or 'an unnamed method'} has no energy in its stats: "
            f"{sorted(posterior.stats)}.\nExpected: draws by ppl.NUTS() or another Hamiltonian method."
        )
    plots = _arviz_plots()
    collection = plots.plot_energy(
        posterior.to_arviz(["posterior", "sample_stats"]), backend="matplotlib", color=list(COLORS)
    )
    return _saved(collection, path)


def _drawn(
    posterior: Posterior,
    path: str | os.PathLike[str] | None,
    addresses: Sequence[str] | None,
    pick: Callable[[Any], Callable[..., Any]],
) -> Any:
    arrays = posterior.arrays
    chosen = list(arrays)[:MOST_VARIABLES] if addresses is None else list(addresses)
    if unknown := [address for address in chosen if address not in arrays]:
        raise AddressError(f"The posterior has no addresses {unknown}.\nIt has: {', '.join(map(repr, arrays))}.")
    plots = _arviz_plots()
    tree = posterior.to_arviz(["posterior", "sample_stats"])
    every = sorted({*arrays, *posterior.stats, *posterior.masks})
    names = variable_names(every)
    collection = pick(plots)(
        tree, var_names=[names[address] for address in chosen], backend="matplotlib", color=list(COLORS)
    )
    return _saved(collection, path)


def _arviz_plots() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations between matplotlib and arviz-plots
            with contextlib.suppress(ModuleNotFoundError):
                # arviz-plots 0.8 reads this submodule, which matplotlib 3.11 no longer imports of itself.
                import matplotlib.style.core  # noqa: F401
            import arviz_plots
            import arviz_plots.backend.matplotlib
    except ImportError as error:
        raise ImportError("Figures of chains need arviz-plots: pip install quasiborel[plots]") from error
    return arviz_plots


def _saved(collection: Any, path: str | os.PathLike[str] | None) -> Any:
    if path is not None:
        collection.savefig(os.fspath(path), dpi=120, bbox_inches="tight")
    return collection
