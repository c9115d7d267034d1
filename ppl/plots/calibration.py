"""Figures of simulation-based calibration: histograms of ranks, and how far their distribution function is off.

Law: the band of the second panel holds the whole curve with the probability given, exactly, if the method is exact; it
is the band of the test behind `Calibration.p_values`.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import bdtr

from ppl.diagnostics.calibration import Calibration
from ppl.diagnostics.uniformity import counts_below, uniformity_band
from ppl.errors import AddressError
from ppl.plots.figure import FILL, LINE, MARK, bare, new_figure, written

MOST_QUANTITIES = 24
MOST_BINS = 20
PER_BIN = 8


def plot_sbc(
    calibration: Calibration,
    path: str | os.PathLike[str] | None = None,
    quantities: Sequence[str] | None = None,
    *,
    prob: float = 0.95,
) -> Any:
    """Draw two panels for each quantity: a histogram of its ranks, and the difference of their ECDF from uniform.

    Ranks at both ends say that draws are too narrow, in the middle too wide, at one end that they are shifted.

    Args:
        calibration: what `ppl.testing.sbc` found.
        path: a file to write (PNG, SVG or PDF by its ending); None to write none.
        quantities: which ones; all by default.
        prob: probability of the bands: of each bar by itself, and of the whole curve.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
        AddressError: a quantity was not ranked, or there are more than 24.
    """
    names = list(calibration.ranks if quantities is None else quantities)
    _check_names(names, calibration)
    figure = new_figure(7.0, 1.7 * len(names) + 0.6)
    panels = figure.subplots(len(names), 2, squeeze=False)
    for (left, right), name in zip(panels, names, strict=True):
        color = MARK if calibration.p_values[name] < 1 - prob else LINE
        _histogram(left, calibration.ranks[name], calibration.most, prob)
        _difference(right, calibration.ranks[name], calibration.most, prob, color)
        left.set_title(name, fontsize=9, loc="left")
        right.set_title(f"p = {calibration.p_values[name]:.2g}", fontsize=9, loc="left", color=color)
    panels[-1][0].set_xlabel("rank of the truth", fontsize=8)
    panels[-1][1].set_xlabel("rank / draws", fontsize=8)
    count = len(calibration.ranks[names[0]])
    title = f"{count} replicates, ranks among {calibration.most} draws, {prob:.0%} bands"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return written(figure, path)


def _histogram(panel: Any, ranks: np.ndarray, most: int, prob: float) -> None:
    bins = max(min(MOST_BINS, len(ranks) // PER_BIN, most + 1), 1)
    edges = np.linspace(0, most + 1, bins + 1).round()
    counts, _ = np.histogram(ranks, edges - 0.5)
    shares = np.diff(edges) / (most + 1)
    low, high = (_binomial_quantile(q, len(ranks), shares) for q in ((1 - prob) / 2, (1 + prob) / 2))
    panel.stairs(high, edges - 0.5, baseline=low, fill=True, color="0.88")
    panel.bar(edges[:-1] - 0.5, counts, np.diff(edges), align="edge", color=FILL, alpha=0.7, edgecolor="white")
    panel.stairs(len(ranks) * shares, edges - 0.5, color="0.4", linewidth=0.8, baseline=None)
    _plain(panel)


def _difference(panel: Any, ranks: np.ndarray, most: int, prob: float, color: str) -> None:
    band = uniformity_band(len(ranks), most, prob)
    places = band.cuts / (most + 1)
    curves = (x / len(ranks) - places for x in (band.lower, band.upper, counts_below(ranks, band.cuts)))
    lower, upper, difference = (np.concatenate([[0.0], curve, [0.0]]) for curve in curves)
    grid = np.concatenate([[0.0], places, [1.0]])
    panel.fill_between(grid, lower, upper, color="0.88", linewidth=0)
    panel.axhline(0.0, color="0.4", linewidth=0.8)
    panel.plot(grid, difference, color=color, linewidth=1.3)
    panel.set_xlim(0, 1)
    _plain(panel)


def _binomial_quantile(q: float, trials: int, probs: np.ndarray) -> np.ndarray:
    """The least count whose distribution function is at least q."""
    counts = np.arange(trials + 1)
    return np.array([np.argmax(bdtr(counts, trials, p) >= q) for p in probs])


def _plain(panel: Any) -> None:
    panel.tick_params(labelsize=8)
    bare(panel, ("top", "right"))


def _check_names(names: Sequence[str], calibration: Calibration) -> None:
    unknown = [name for name in names if name not in calibration.ranks]
    if unknown or not 0 < len(names) <= MOST_QUANTITIES:
        raise AddressError(
            f"Expected 1 to {MOST_QUANTITIES} quantities to draw, got {len(names)}"
            f"{f', of which {unknown} were not ranked' if unknown else ''}.\n"
            f"Ranked: {', '.join(map(repr, list(calibration.ranks)[:MOST_QUANTITIES]))}.\n"
            "Fix: say which with quantities=[...]."
        )
