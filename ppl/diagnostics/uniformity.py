"""Are ranks uniform? An exact test of their distribution function, and the band in which it should lie.

For N independent ranks, uniform on 0..L, the number R_c below c is Binomial(N, c / (L + 1)). The statistic is the
smallest two-sided tail probability over all c,

    gamma = min_c 2 min(P(X <= R_c), P(X >= R_c)),    X ~ Binomial(N, c / (L + 1)),

and its law is computed, not simulated: (R_c) is a Markov chain with binomial increments, so the probability that it
leaves the band {x : tail probability > gamma} is a sum of matrix products. Law: P(p <= a) <= a for every a; smaller
p-values than 1e-13 are given as that.

Reference: Sailynoja, Burkner, Vehtari, "Graphical test for discrete uniformity and its applications in goodness-of-fit
evaluation and multiple sample comparison", Statistics and Computing 32 (2022), algorithm 2.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import bdtr, bdtrc, gammaln

MOST_CUTS = 100
"""Distribution functions are compared at no more than so many places."""
PRECISION = 1e-13
EQUAL = 1 + 1e-9
BISECTIONS = 40


class Band(NamedTuple):
    """Where the number of ranks below each cut lies, at all cuts together, with a given probability.

    Attributes:
        cuts: ranks from 1 to the largest; what is counted is the ranks below.
        lower: the least number that is inside.
        upper: the largest number that is inside.
    """

    cuts: Int[np.ndarray, "cuts"]
    lower: Int[np.ndarray, "cuts"]
    upper: Int[np.ndarray, "cuts"]


def uniformity_p_value(ranks: Int[np.ndarray, "replicates"], most: int) -> float:
    """Exact p-value of independent ranks, under the hypothesis that each is uniform on 0..`most`.

    Args:
        ranks: integers from 0 to `most`.
        most: the largest rank that there is, at least 1.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> even, middle = rng.integers(0, 20, 300), rng.integers(0, 10, 300) + 5
        >>> uniformity_p_value(even, 19) > 0.05, uniformity_p_value(middle, 19) < 1e-9
        (True, True)
    """
    cuts = cuts_of(most)
    tails = _tails(len(ranks), cuts / (most + 1))
    counts = counts_below(ranks, cuts)
    smallest = tails[np.arange(len(cuts)), counts].min()
    return _exit_probability(cuts / (most + 1), tails, smallest)


def uniformity_band(replicates: int, most: int, prob: float = 0.95) -> Band:
    """The band that holds the whole distribution function of uniform ranks with probability at least `prob`.

    Args:
        replicates: the number of ranks.
        most: the largest rank that there is.
        prob: the probability that no cut lies outside.
    """
    cuts = cuts_of(most)
    tails = _tails(replicates, cuts / (most + 1))
    low, high = 0.0, 1 - prob
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        inside = _exit_probability(cuts / (most + 1), tails, middle) <= 1 - prob
        low, high = (middle, high) if inside else (low, middle)
    kept = tails > low * EQUAL
    return Band(cuts, kept.argmax(axis=1), replicates - kept[:, ::-1].argmax(axis=1))


def cuts_of(most: int) -> Int[np.ndarray, "cuts"]:
    """Ranks at which distribution functions are compared: all from 1 to `most`, or 100 of them."""
    return np.unique(np.linspace(1, most, min(most, MOST_CUTS)).round().astype(int))


def counts_below(ranks: Int[np.ndarray, "replicates"], cuts: Int[np.ndarray, "cuts"]) -> Int[np.ndarray, "cuts"]:
    """How many ranks lie below each cut."""
    return np.searchsorted(np.sort(ranks), cuts, side="left")


def _tails(replicates: int, probs: Float[np.ndarray, "cuts"]) -> Float[np.ndarray, "cuts counts"]:
    """Two-sided tail probability of each count at each cut."""
    counts, p = np.arange(replicates + 1), probs[:, None]
    above = np.where(counts > 0, bdtrc(np.maximum(counts - 1, 0), replicates, p), 1.0)
    return np.minimum(2 * np.minimum(bdtr(counts, replicates, p), above), 1.0)


def _exit_probability(probs: np.ndarray, tails: np.ndarray, level: float) -> float:
    """Probability that some count has a tail probability of at most `level`."""
    replicates = tails.shape[1] - 1
    log_factorial = gammaln(np.arange(replicates + 1) + 1.0)
    counts, mass, outside, before = np.array([0]), np.array([1.0]), 0.0, 0.0
    for p, row in zip(probs, tails, strict=True):
        inside = np.flatnonzero(row > level * EQUAL)
        step = (p - before) / (1 - before)
        moved = mass @ _binomial(log_factorial, replicates - counts, inside - counts[:, None], step)
        outside += float(mass.sum() - moved.sum())
        counts, mass, before = inside, moved, p
    return min(max(outside, PRECISION), 1.0)


def _binomial(log_factorial: np.ndarray, trials: np.ndarray, successes: np.ndarray, prob: float) -> np.ndarray:
    """Binomial masses, zero where there are fewer than 0 successes or more than trials."""
    possible = (successes >= 0) & (successes <= trials[:, None])
    hits = np.where(possible, successes, 0)
    misses = trials[:, None] - hits
    log_choose = log_factorial[trials][:, None] - log_factorial[hits] - log_factorial[misses]
    return np.where(possible, np.exp(log_choose + hits * np.log(prob) + misses * np.log1p(-prob)), 0.0)
