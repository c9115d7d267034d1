"""Do draws agree with reference draws? Means, standard deviations and three quantiles, within what their sizes allow.

Every comparison is a z-score: the difference over its standard error, which comes from the effective sample sizes of
both sides. With both sides right, a z-score above 4 has probability 6e-5.

    mean        (mean - mean') / sd'                     variance 1 / ess + 1 / ess'
    spread      log(sd / sd')                            variance e^2 + e'^2, e^2 = var((x - m)^2) / (4 sd^4 ess_2)
    quantile p  share of draws below the reference's     variance p (1 - p) (1 / ess_p + 1 / ess'_p)
                p-quantile, minus p

`ess_2` is that of the squared deviations (x - m)^2 from the mean. It may be far below that of the draws themselves:
where a chain swings from side to side, as NUTS may, its mean is better known than from independent draws, its spread
less well. (ArviZ's `mcse` of a standard deviation takes the first for both, and so is too small there.)
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from arviz_stats.base.array import array_stats
from jaxtyping import Float

QUANTILES = (0.05, 0.5, 0.95)
LIMIT = 4.0

Draws = Float[np.ndarray, "chains draws"]


class Agreement(NamedTuple):
    """What a comparison found.

    Attributes:
        z: z-scores by parameter: mean, spread, and the quantiles at 5%, 50% and 95%.
        min_ess: The smallest bulk effective sample size of the draws, over parameters.
    """

    z: dict[str, Float[np.ndarray, "5"]]
    min_ess: float

    @property
    def worst(self) -> tuple[str, float]:
        """The parameter with the largest z-score in absolute value, and that value; infinite where one is NaN."""
        largest = {name: float(np.max(np.nan_to_num(np.abs(z), nan=np.inf))) for name, z in self.z.items()}
        name = max(largest, key=lambda key: largest[key])
        return name, largest[name]

    @property
    def failures(self) -> list[str]:
        """Parameters with a z-score beyond the limit."""
        return [name for name, z in self.z.items() if not np.all(np.abs(z) <= LIMIT)]


def agreement(draws: Mapping[str, Draws], reference: Mapping[str, Draws]) -> Agreement:
    """Compare draws with a reference, parameter by parameter.

    Args:
        draws: By the reference's parameter names; see `flatten`.
        reference: Nearly independent draws of the same posterior.
    """
    z = {name: _z_scores(np.asarray(draws[name], float), reference[name]) for name in reference}
    return Agreement(z, min(_ess(draws[name], "bulk") for name in reference))


def _z_scores(draws: Draws, reference: Draws) -> Float[np.ndarray, "5"]:
    spread = reference.std()
    shift = (draws.mean() - reference.mean()) / spread
    mean = shift / np.sqrt(1.0 / _ess(draws, "mean") + 1.0 / _ess(reference, "mean"))
    scale = np.log(draws.std() / spread) / np.hypot(_error_of_log_sd(draws), _error_of_log_sd(reference))
    return np.array([mean, scale, *(_quantile_z(draws, reference, p) for p in QUANTILES)])


def _quantile_z(draws: Draws, reference: Draws, p: float) -> float:
    cut = np.quantile(reference, p)
    shares = [(x <= cut).astype(float) for x in (draws, reference)]
    error = np.sqrt(p * (1.0 - p) * sum(1.0 / _ess(share, "mean") for share in shares))
    return float((shares[0].mean() - p) / error)


def _ess(draws: Draws, method: str) -> float:
    return float(array_stats.ess(np.asarray(draws, float), chain_axis=0, draw_axis=1, method=method))


def _error_of_log_sd(draws: Draws) -> float:
    """Delta method: log sd is half the log of the mean of squared deviations."""
    squares = (draws - draws.mean()) ** 2
    return float(0.5 * squares.std() / squares.mean() / np.sqrt(_ess(draws, "sd")))
