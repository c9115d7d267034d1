"""A cheap look at all scalars of a run at once, to decide which of them ArviZ is asked about.

ArviZ takes milliseconds for a scalar, and most of a second to import; a run of a second with thousands of parameters
should not wait for it where nothing is wrong. These are plain formulas, vectorised, on draws squashed by a bounded
monotone function (so that heavy tails do no harm, as ranks would do): split R-hat of place and spread, and effective
draws by batch means, of the centre and of both tails. Law: they say nothing to users; whoever looks bad here, with a
margin, is judged by `ppl.diagnostics.convergence`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

CHUNK = 2048
BATCHES = 16
POOL = 400
"""Draws from which the middle and the quantiles of a scalar are found."""


class Screen(NamedTuple):
    """What a cheap look says of each scalar.

    Attributes:
        r_hat: the larger of the split R-hats of place and spread; NaN for draws that are all equal.
        ess: the least of the effective draws of centre and tails; NaN for draws that are all equal.
        bad: draws that are not finite; where there are any, the other numbers are NaN.
        frozen: chains whose draws are all equal, although those of other chains are not all equal to them.
    """

    r_hat: Float[np.ndarray, "scalars"]
    ess: Float[np.ndarray, "scalars"]
    bad: Int[np.ndarray, "scalars"]
    frozen: Bool[np.ndarray, "chains scalars"]


def screen(draws: Shaped[Array | np.ndarray, "chains draws scalars"]) -> Screen:
    """Look at every scalar.

    Args:
        draws: real, integer or boolean draws, at least 4 of each chain.

    Examples:
        >>> import numpy as np
        >>> draws = np.random.default_rng(0).normal(size=(4, 500, 2))
        >>> draws[0, :, 1] += 1.0
        >>> found = screen(draws)
        >>> (found.r_hat > 1.05).tolist(), bool(found.ess[0] > 1000)
        ([False, True], True)
    """
    host = np.asarray(draws)
    parts = [_screen(host[..., start : start + CHUNK]) for start in range(0, max(host.shape[2], 1), CHUNK)]
    return Screen(*(np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)))


def _screen(draws: np.ndarray) -> Screen:
    draws = draws if draws.dtype == np.float64 else draws.astype(np.float32)
    bad = np.sum(~np.isfinite(draws), axis=(0, 1))
    sound = np.where(bad == 0, draws, 0) if bad.any() else draws
    frozen = np.ptp(sound, axis=1) == 0
    moving = np.ptp(sound, axis=(0, 1)) > 0
    low, quarter, middle, three_quarters, high = _quantiles(sound)
    width = np.where(three_quarters > quarter, three_quarters - quarter, np.maximum(high - low, 1e-30))
    places = np.tanh((sound - middle) / width).astype(np.float32)
    tails = [(sound <= low).astype(np.float32), (sound >= high).astype(np.float32)]
    with np.errstate(all="ignore"):  # draws that are all equal divide zero by zero
        r_hat = np.maximum(_split_r_hat(places), _split_r_hat(np.abs(places)))
        ess = np.fmin.reduce([_batch_ess(places), *map(_batch_ess, tails)])
    nothing = ~moving | (bad > 0)
    return Screen(np.where(nothing, np.nan, r_hat), np.where(nothing, np.nan, ess), bad, frozen & moving)


def _quantiles(draws: np.ndarray) -> np.ndarray:
    """The 5%, 25%, 50%, 75% and 95% quantiles of some evenly spaced draws of all chains."""
    chains, count, scalars = draws.shape
    every = max(chains * count // POOL, 1)
    pool = draws.reshape(chains * count, scalars)[::every]
    ranks = [int(share * (len(pool) - 1)) for share in (0.05, 0.25, 0.5, 0.75, 0.95)]
    return np.partition(pool, ranks, axis=0)[ranks]


def _split_r_hat(x: np.ndarray) -> np.ndarray:
    half = x.shape[1] // 2
    halves = np.concatenate([x[:, :half], x[:, -half:]])
    within = halves.var(axis=1, ddof=1).mean(axis=0)
    between = halves.mean(axis=1).var(axis=0, ddof=1)
    return np.sqrt((half - 1) / half + between / within)


def _batch_ess(x: np.ndarray) -> np.ndarray:
    chains, count, scalars = x.shape
    size = max(count // BATCHES, 1)
    used = x[:, : count - count % size]
    means = used.reshape(-1, size, scalars).mean(axis=1)
    return chains * count * used.var(axis=(0, 1)) / (size * means.var(axis=0, ddof=1))
