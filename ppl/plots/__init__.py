"""Figures: marginals and intervals of a posterior, its chains, and calibration. `pip install quasiborel[plots]`."""

from ppl.plots.calibration import plot_sbc
from ppl.plots.chains import plot_energy, plot_rank, plot_trace
from ppl.plots.marginals import Marginal, density, marginals_of, plot_forest, plot_posterior

__all__ = [
    "Marginal",
    "density",
    "marginals_of",
    "plot_energy",
    "plot_forest",
    "plot_posterior",
    "plot_rank",
    "plot_sbc",
    "plot_trace",
]
