"""Convergence of chains: R-hat, effective sample sizes and Monte Carlo errors, of every element of a site.

Law: each element of a site is judged by itself, as ArviZ judges it. An answer that cannot be had is NaN, without
a warning: draws that are not finite, fewer than 4 draws, one chain only (for R-hat), or draws that never change
(R-hat, error of the standard deviation). It judges draws; it knows neither sites nor samplers.

Reference: Vehtari, Gelman, Simpson, Carpenter, Burkner, "Rank-normalization, folding, and localization", Bayesian
Analysis 16(2), 2021.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Shaped

from ppl.errors import ShapeError

MIN_DRAWS = 4


class Convergence(NamedTuple):
    """What there is to say about the chains of one site, element by element.

    Attributes:
        r_hat: rank-normalised split R-hat; 1 for chains that agree.
        ess_bulk: effective number of draws for the centre.
        ess_tail: effective number of draws for the 5% and 95% quantiles.
        mcse_mean: standard error of the mean, in the unit of the site.
        mcse_sd: standard error of the standard deviation, in the unit of the site.
    """

    r_hat: Float[np.ndarray, "*event"]
    ess_bulk: Float[np.ndarray, "*event"]
    ess_tail: Float[np.ndarray, "*event"]
    mcse_mean: Float[np.ndarray, "*event"]
    mcse_sd: Float[np.ndarray, "*event"]


def r_hat(draws: Shaped[Array | np.ndarray, "chains draws *event"]) -> Float[np.ndarray, "*event"]:
    """Rank-normalised split R-hat: the spread of all draws over the spread within chains.

    Args:
        draws: real, integer or boolean draws of one site.

    Returns:
        About 1 where chains agree; above 1.01 they have not mixed. NaN for one chain or constant draws.

    Examples:
        >>> import numpy as np
        >>> chains = np.random.default_rng(0).normal(size=(4, 500))
        >>> bool(r_hat(chains) < 1.01), bool(r_hat(chains + np.arange(4)[:, None]) > 1.5)
        (True, True)
    """
    return _by_element(draws, lambda stats, chains: stats.rhat(chains, chain_axis=0, draw_axis=1))


def nested_r_hat(
    draws: Shaped[Array | np.ndarray, "chains draws *event"], superchains: int
) -> Float[np.ndarray, "*event"]:
    """Rank-normalised nested R-hat: tells whether the warm-up was long enough, however few the draws of each chain.

    Superchains are groups of consecutive chains that started at the same point, and otherwise went apart; where they
    still differ, they remember their starts.

    Args:
        draws: real, integer or boolean draws of one site.
        superchains: number of groups, of equal size.

    Returns:
        About 1 where superchains agree; NaN for constant draws.

    Examples:
        >>> import numpy as np
        >>> chains = np.random.default_rng(0).normal(size=(64, 5))
        >>> bool(nested_r_hat(chains, 8) < 1.05), bool(nested_r_hat(chains + np.arange(64)[:, None] // 8, 8) > 1.5)
        (True, True)

    Reference: Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari, Gelman (2024), *Nested R-hat*.
    """
    chains = len(np.asarray(draws))
    if superchains < 2 or chains % superchains:
        raise ShapeError(
            f"expected a number of superchains, at least 2, that divides {chains} chains: got {superchains}"
        )
    ids = np.repeat(np.arange(superchains), chains // superchains)
    return _by_element(draws, lambda stats, x: stats.rhat_nested(x, ids, chain_axis=0, draw_axis=1))


def effective_sample_size(
    draws: Shaped[Array | np.ndarray, "chains draws *event"], kind: Literal["bulk", "tail"] = "bulk"
) -> Float[np.ndarray, "*event"]:
    """Number of independent draws that would tell as much as these.

    Args:
        draws: real, integer or boolean draws of one site.
        kind: `"bulk"` for the centre, `"tail"` for the less precise of the 5% and 95% quantiles.

    Returns:
        A number of draws.

    Examples:
        >>> import numpy as np
        >>> walk = np.cumsum(np.random.default_rng(0).normal(size=(4, 500)), axis=1)
        >>> bool(effective_sample_size(walk) < 50)
        True
    """
    prob = 0.9 if kind == "tail" else None
    return _by_element(
        draws, lambda stats, chains: stats.ess(chains, chain_axis=0, draw_axis=1, method=kind, prob=prob)
    )


def monte_carlo_error(
    draws: Shaped[Array | np.ndarray, "chains draws *event"], of: Literal["mean", "sd"] = "mean"
) -> Float[np.ndarray, "*event"]:
    """Standard error of an estimate from autocorrelated draws.

    Args:
        draws: real, integer or boolean draws of one site.
        of: which estimate: the posterior `"mean"`, or the posterior standard deviation, `"sd"`.

    Returns:
        A standard error in the unit of the draws.

    Examples:
        >>> import numpy as np
        >>> chains = np.random.default_rng(0).normal(size=(4, 500))
        >>> bool(abs(monte_carlo_error(chains) * np.sqrt(2000) - 1) < 0.1)
        True
    """
    return _by_element(draws, lambda stats, chains: stats.mcse(chains, chain_axis=0, draw_axis=1, method=of))


def convergence(draws: Shaped[Array | np.ndarray, "chains draws *event"]) -> Convergence:
    """All of the above for one site.

    Args:
        draws: real, integer or boolean draws of one site.

    Returns:
        The diagnostics, each of the shape of the site.
    """
    return Convergence(
        r_hat(draws),
        effective_sample_size(draws, "bulk"),
        effective_sample_size(draws, "tail"),
        monte_carlo_error(draws, "mean"),
        monte_carlo_error(draws, "sd"),
    )


def _by_element(draws: Array | np.ndarray, statistic: Callable) -> np.ndarray:
    """Apply an ArviZ statistic to the chains of each element whose draws are all finite."""
    from arviz_stats.base.array import array_stats  # on first use: see the docstring of ppl.diagnostics

    chains = np.asarray(draws)
    if chains.ndim < 2:
        msg = f"expected draws with leading axes (chains, draws), got shape {chains.shape}: add a chain axis"
        raise ShapeError(msg)
    event = chains.shape[2:]
    answers = np.full(event, np.nan)
    if chains.shape[0] == 0 or chains.shape[1] < MIN_DRAWS:
        return answers
    chains = chains.astype(np.float64)
    for index in np.ndindex(event):
        element = chains[(slice(None), slice(None), *index)]
        if np.isfinite(element).all():
            with np.errstate(all="ignore"):  # constant draws divide zero by zero, and their answer is NaN
                answers[index] = statistic(array_stats, element)
    return answers
