"""Figures of a posterior: small multiples of its marginals, and a forest of its intervals.

Law: what is drawn is the weighted posterior: densities, means and intervals are those of `Posterior.summary`.
Matplotlib is optional: `pip install quasiborel[plots]`. It computes no statistic of its own.
"""

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ppl.errors import AddressError
from ppl.inference.axes import chosen
from ppl.inference.moments import normalized_weights, weighted_hdi, weighted_moments
from ppl.inference.posterior import Posterior
from ppl.inference.summary import element_label
from ppl.plots.figure import FILL, LINE, MARK, bare, new_figure, written

GRID = 200
MAX_PANELS = 60
MAX_BARS = 20
MAX_TICKS = 8
SHOWN = 0.99
"""Weight inside the range of a panel, so that one far draw does not flatten the rest."""


class Marginal(NamedTuple):
    """The draws of one scalar.

    Attributes:
        label: its address and index.
        values: draws, flat.
        weights: normalised weights.
        discrete: whether the values are integers, booleans, or few distinct numbers.
    """

    label: str
    values: Float[np.ndarray, "n"]
    weights: Float[np.ndarray, "n"]
    discrete: bool


def plot_posterior(
    posterior: Posterior,
    path: str | os.PathLike[str] | None = None,
    addresses: Sequence[str] | None = None,
    *,
    hdi_prob: float = 0.94,
    columns: int = 4,
) -> Any:
    """Draw the marginal of every scalar: a density, or bars where it is discrete, with mean and HDI.

    Args:
        posterior: what to draw.
        path: a file to write (PNG, SVG or PDF by its ending); None to write none.
        addresses: which choices and deterministic values; all by default.
        hdi_prob: weight inside the interval.
        columns: the largest number of panels side by side.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        AddressError: an address is not one of the posterior's, or there are more than 60 scalars.
    """
    marginals = marginals_of(posterior, addresses)
    _check_count(marginals)
    columns = min(columns, len(marginals))
    rows = math.ceil(len(marginals) / columns)
    figure = new_figure(2.7 * columns, 2.0 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, marginal in zip(panels, marginals, strict=False):
        _draw_marginal(panel, marginal, hdi_prob)
    for panel in panels[len(marginals) :]:
        panel.set_visible(False)
    figure.suptitle(f"{_title(posterior)}: mean and {hdi_prob:.0%} HDI", fontsize=10, x=0.01, ha="left")
    return written(figure, path)


def plot_forest(
    posterior: Posterior,
    path: str | os.PathLike[str] | None = None,
    addresses: Sequence[str] | None = None,
    *,
    hdi_prob: float = 0.94,
) -> Any:
    """Draw one line per scalar: the mean, the HDI (thin) and the middle half (thick), on one axis.

    Args:
        posterior: what to draw.
        path: a file to write; None to write none.
        addresses: which choices and deterministic values; all by default.
        hdi_prob: weight inside the thin interval.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        AddressError: an address is not one of the posterior's, or there are more than 60 scalars.
    """
    marginals = marginals_of(posterior, addresses)
    _check_count(marginals)
    figure = new_figure(6.5, 0.28 * len(marginals) + 1.0)
    panel = figure.subplots()
    for row, marginal in enumerate(marginals):
        _draw_intervals(panel, row, marginal, hdi_prob)
    panel.set_yticks(range(len(marginals)), [marginal.label for marginal in marginals], fontsize=8)
    panel.set_ylim(len(marginals) - 0.5, -0.5)
    panel.tick_params(axis="x", labelsize=8)
    panel.grid(axis="x", color="0.9", linewidth=0.6)
    panel.set_axisbelow(True)
    bare(panel, ("top", "right", "left"))
    panel.set_title(f"{_title(posterior)}: mean, middle half and {hdi_prob:.0%} HDI", fontsize=10, loc="left")
    return written(figure, path)


def marginals_of(posterior: Posterior, addresses: Sequence[str] | None = None) -> list[Marginal]:
    """The scalars of a posterior, each with the draws in which it was made.

    Args:
        posterior: the posterior.
        addresses: which choices and deterministic values; all by default.

    Raises:
        AddressError: an address is not one of the posterior's.
    """
    arrays = chosen(posterior.arrays, addresses)
    log_weights = np.zeros(posterior.shape) if posterior.log_weights is None else posterior.log_weights
    weights = normalized_weights(log_weights)
    return [
        marginal
        for address, array in arrays.items()
        for marginal in _scalars(posterior, address, np.asarray(array), weights)
    ]


def density(
    values: Float[np.ndarray, "n"], weights: Float[np.ndarray, "n"], grid: Float[np.ndarray, "points"]
) -> Float[np.ndarray, "points"]:
    """Weighted Gaussian kernel density, Silverman's bandwidth on the effective number of draws.

    The mass that the kernels put outside the range of the draws is folded back at its ends, so that a density that
    is high at a bound of the support (a scale near zero) is not drawn as falling there.

    Args:
        values: draws.
        weights: normalised weights.
        grid: where to evaluate.
    """
    _, sd = weighted_moments(values, weights)
    low, high = weighted_hdi(values, weights, 0.5)
    spread = min(sd, (high - low) / 1.35) or sd or 1.0
    width = 0.9 * spread * float(np.sum(np.square(weights))) ** 0.2
    lowest, highest = values.min(), values.max()
    total = np.zeros_like(grid)
    for image in (values, 2 * lowest - values, 2 * highest - values):
        total += np.exp(-0.5 * np.square((grid[:, None] - image) / width)) @ weights
    return total / (width * math.sqrt(2 * math.pi))


def _scalars(posterior: Posterior, address: str, array: np.ndarray, weights: np.ndarray) -> Iterator[Marginal]:
    made = _made(posterior, address, array.shape)
    dims = posterior.dims.get(address, ())
    for index in np.ndindex(array.shape[2:]):
        values = array[(..., *index)].ravel().astype(np.float64)
        kept = made[(..., *index)].ravel() & (weights > 0) & np.isfinite(values)
        if kept.any():
            label = address + element_label(index, dims)
            share = weights[kept] / weights[kept].sum()
            few = array.dtype.kind in "biu" or np.unique(values[kept]).size <= MAX_BARS
            yield Marginal(label, values[kept], share, few)


def _made(posterior: Posterior, address: str, shape: tuple[int, ...]) -> Bool[np.ndarray, "..."]:
    mask = np.asarray(posterior.masks.get(address, np.ones(posterior.shape, bool)))
    return np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


def _draw_marginal(panel: Any, marginal: Marginal, hdi_prob: float) -> None:
    values, weights = marginal.values, marginal.weights
    if marginal.discrete:
        points, where = np.unique(values, return_inverse=True)
        width = 0.7 * float(np.diff(points).min(initial=1.0))
        panel.bar(points, np.bincount(where, weights), width=width, color=FILL, alpha=0.55)
        if points.size <= MAX_TICKS:
            panel.set_xticks(points, [f"{point:.3g}" for point in points])
    else:
        shown = _middle(values, weights, SHOWN)
        grid = np.linspace(*shown, GRID)
        heights = density(values, weights, grid)
        panel.fill_between(grid, heights, color=FILL, alpha=0.3, linewidth=0)
        panel.plot(grid, heights, color=LINE, linewidth=1.2)
        panel.set_xlim(*shown)
    _, top = panel.get_ylim()
    base = -0.06 * top
    low, high = weighted_hdi(values, weights, hdi_prob)
    mean, _ = weighted_moments(values, weights)
    panel.plot([low, high], [base, base], color=LINE, linewidth=2.5, solid_capstyle="butt", clip_on=False)
    panel.plot([mean], [base], "o", color=MARK, markersize=4.5, clip_on=False, zorder=3)
    panel.set_ylim(2 * base, top)
    panel.set_yticks([])
    panel.tick_params(axis="x", labelsize=8)
    panel.set_title(marginal.label, fontsize=9, loc="left")
    bare(panel, ("top", "right", "left"))


def _draw_intervals(panel: Any, row: int, marginal: Marginal, hdi_prob: float) -> None:
    # The shortest half is noisy where the density is flat, so the thick line is the middle half.
    outer = weighted_hdi(marginal.values, marginal.weights, hdi_prob)
    inner = _middle(marginal.values, marginal.weights, 0.5)
    for (low, high), width in ((outer, 1.2), (inner, 3.5)):
        panel.plot([low, high], [row, row], color=LINE, linewidth=width, solid_capstyle="butt")
    mean, _ = weighted_moments(marginal.values, marginal.weights)
    panel.plot([mean], [row], "o", color=MARK, markersize=4.5, zorder=3)


def _middle(values: np.ndarray, weights: np.ndarray, prob: float) -> tuple[float, float]:
    """The interval that leaves out the same weight on each side."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    low, high = np.searchsorted(cumulative, [(1 - prob) / 2, (1 + prob) / 2])
    return float(values[order][low]), float(values[order][min(high, values.size - 1)])


def _check_count(marginals: Sequence[Marginal]) -> None:
    if not 0 < len(marginals) <= MAX_PANELS:
        raise AddressError(
            f"Expected 1 to {MAX_PANELS} scalars to draw, got {len(marginals)}.\nFix: say which with addresses=[...]."
        )


def _title(posterior: Posterior) -> str:
    return f"Posterior by {posterior.method}" if posterior.method else "Posterior"
