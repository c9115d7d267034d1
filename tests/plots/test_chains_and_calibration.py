"""Figures of chains and of calibration: what they draw, that they are written, what cannot be drawn."""

import numpy as np
import pytest

import ppl
from ppl.errors import AddressError
from ppl.plots import plot_energy, plot_rank, plot_sbc, plot_trace
from ppl.testing import Calibration


@pytest.fixture
def posterior(rng):
    return ppl.Posterior(
        draws={"mu": rng.normal(size=(3, 60)), "a/theta": rng.normal(size=(3, 60, 2))},
        stats={"energy": rng.normal(size=(3, 60)), "diverging": rng.random((3, 60)) < 0.1},
        method="NUTS",
    )


@pytest.fixture
def calibration(rng):
    ranks = {"tau": rng.integers(0, 50, 160), "theta[0]": rng.integers(0, 50, 160) // 2}
    return Calibration(ranks, 49)


def test_sbc_has_two_panels_a_quantity_and_marks_the_misfit(calibration, tmp_path):
    figure = plot_sbc(calibration, tmp_path / "sbc.png")
    assert (tmp_path / "sbc.png").stat().st_size > 5000
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[::2] == ["tau", "theta[0]"]
    assert titles[1].startswith("p = ")
    bars = [sum(bar.get_height() for bar in axes.patches if hasattr(bar, "get_height")) for axes in figure.axes[::2]]
    assert bars == [160, 160]
    # Half the ranks lie below a quarter: the curve leaves the band by far.
    assert max(figure.axes[3].lines[1].get_ydata()) > 0.4
    assert abs(figure.axes[1].lines[1].get_ydata()).max() < 0.15


def test_sbc_of_unknown_quantities_is_refused(calibration):
    with pytest.raises(AddressError, match=r"\['mu'\] were not ranked.*\n.*'tau', 'theta\[0\]'"):
        plot_sbc(calibration, quantities=["mu"])


@pytest.mark.parametrize("plot", [plot_trace, plot_rank])
def test_chains_are_drawn_by_arviz_plots(plot, posterior, tmp_path):
    collection = plot(posterior, tmp_path / "chains.png", ["a/theta"])
    assert (tmp_path / "chains.png").stat().st_size > 5000
    assert set(collection.data.data_vars) == {"a.theta"}
    with pytest.raises(AddressError, match=r"no addresses \['nu'\].*\n.*'mu', 'a/theta'"):
        plot(posterior, addresses=["nu"])


def test_energy(posterior, tmp_path):
    plot_energy(posterior, tmp_path / "energy.png")
    assert (tmp_path / "energy.png").stat().st_size > 5000
    with pytest.raises(AddressError, match="no energy in its stats"):
        plot_energy(ppl.Posterior(draws={"a": np.zeros((2, 9))}, method="MH"))
