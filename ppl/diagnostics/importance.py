"""Pareto-smoothed importance weights, and the Pareto k that says whether importance sampling worked.

Law: k estimates the shape of the tail of the weights: below 1/2 they have a finite variance, above 0.7 no sample of
practical size makes the estimate reliable. Smoothing replaces the largest weights by the quantiles of the fitted
tail, never above the largest raw weight: a little bias for much less variance. An estimate of the evidence is
unbiased with the raw weights only.

Where no tail can be fitted, the weights come back unsmoothed, and `verdict` says why: nothing is NaN.

Reference: Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto smoothed importance sampling", JMLR 25(72), 2024.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Float

Verdict = Literal["good", "unreliable", "constant", "too few", "no mass"]

MIN_POSITIVE = 25  # a fit needs 5 weights in the tail, and the tail is a fifth of a small sample
MAX_K = 0.7


class ParetoSmoothed(NamedTuple):
    """Smoothed weights and what they are worth.

    Attributes:
        log_weights: normalised log weights (nats), in the order given; all `-inf` where there is no mass.
        pareto_k: shape of the tail; `-inf` for a tail of equal weights, `inf` where no tail can be fitted.
        threshold: k above which a sample of this size is unreliable.
        verdict: `"good"`; `"unreliable"`: k above the threshold; `"constant"`: the largest weights are all equal;
            `"too few"`: fewer than 25 weights above zero, so that nothing can be vouched for; `"no mass"`.
    """

    log_weights: Float[np.ndarray, "particles"]
    pareto_k: float
    threshold: float
    verdict: Verdict

    @property
    def reliable(self) -> bool:
        """True where the weights can be used: `"good"` or `"constant"`."""
        return self.verdict in ("good", "constant")


def pareto_k_threshold(count: int) -> float:
    """The k above which `count` draws are too few: `min(1 - 1 / log10(count), 0.7)`.

    Args:
        count: the number of draws.

    Returns:
        A threshold below 0.7; 0 for ten draws or fewer.

    Examples:
        >>> round(pareto_k_threshold(100), 3), pareto_k_threshold(10_000)
        (0.5, 0.7)
    """
    return min(1.0 - 1.0 / math.log10(count), MAX_K) if count > 10 else 0.0


def pareto_smooth(log_weights: Float[Array | np.ndarray, "particles"]) -> ParetoSmoothed:
    """Smooth importance weights of independent draws, and measure their tail.

    A weight that is NaN counts as zero; `+inf` counts as all the weight there is. Zero weights stay zero, and the
    tail is that of the others.

    Args:
        log_weights: unnormalised log weights (nats).

    Returns:
        Normalised smoothed weights, Pareto k and a verdict.

    Examples:
        >>> import numpy as np
        >>> smoothed = pareto_smooth(0.3 * np.random.default_rng(0).normal(size=1000))
        >>> smoothed.verdict, smoothed.reliable
        ('good', True)
    """
    raw = np.asarray(log_weights)
    clean = np.where(np.isnan(raw), -np.inf, raw).astype(np.float64)
    if np.isposinf(clean).any():
        clean = np.where(np.isposinf(clean), 0.0, -np.inf)
    positive = clean > -np.inf
    count = int(positive.sum())
    threshold = pareto_k_threshold(count)
    if count == 0:
        return ParetoSmoothed(clean, math.inf, threshold, "no mass")
    if count < MIN_POSITIVE:
        return ParetoSmoothed(_normalize(clean), math.inf, threshold, "too few")
    if _tail_spread(clean[positive]) <= _rounding(clean.max(), raw.dtype):
        return ParetoSmoothed(_normalize(clean), -math.inf, threshold, "constant")
    smoothed, pareto_k = _fit(clean[positive])
    clean[positive] = smoothed
    verdict: Verdict = "good" if pareto_k <= threshold else "unreliable"
    return ParetoSmoothed(_normalize(clean), pareto_k, threshold, verdict)


def _fit(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Smooth finite log weights with ArviZ; unsmoothed, with k = inf, where its fit is not finite."""
    from arviz_stats.base.array import array_stats  # on first use: see the docstring of ppl.diagnostics

    with np.errstate(all="ignore"):  # an extreme tail overflows: it shows in the answer, which is looked at below
        # ArviZ takes log-likelihoods left out, whose negatives are the log weights.
        smoothed, pareto_k = array_stats.psislw(-log_weights)
    if not (np.isfinite(pareto_k) and np.isfinite(smoothed).all()):
        return log_weights, math.inf
    return smoothed, float(pareto_k)


def _tail_spread(log_weights: np.ndarray) -> float:
    """Distance (nats) between the largest weight and the smallest of the tail that would be fitted."""
    count = len(log_weights)
    tail = int(3 * math.sqrt(count)) if count > 225 else count // 5
    return float(np.ptp(np.sort(log_weights)[-tail:]))


def _rounding(largest: float, dtype: np.dtype) -> float:
    """Spread (nats) that rounding alone gives to equal log weights as large as the largest.

    The size of the *small* weights must not count: one draw far out in a heavy-tailed prior has a log weight of -1e6.
    """
    return float(8 * np.finfo(dtype).eps * max(1.0, abs(largest)))


def _normalize(log_weights: np.ndarray) -> np.ndarray:
    """Divide weights that are not all zero by their sum."""
    return log_weights - np.logaddexp.reduce(log_weights)
