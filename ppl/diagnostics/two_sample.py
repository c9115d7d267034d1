"""Do two samples come from one law? Exact rank tests of every scalar, of pairs, and of the whole vector.

Law: each row's p-value is valid when all rows of both samples are independent and identically distributed: the
statistics look at the pooled sample and at which half a draw came from, and under that hypothesis the halves are a
random split of the pool. Ties make the Kolmogorov-Smirnov rows conservative. Small p-values of the Mann-Whitney rows
are those of the normal approximation, on the safe side for halves of equal size. Draws of one chain are not
independent: test them with `ppl.diagnostics.convergence`.

References: Mann, Whitney (1947); Gretton et al., "A kernel two-sample test", JMLR 13 (2012), equation 5; Besag,
Clifford, "Sequential Monte Carlo p-values", Biometrika 78 (1991).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Shaped

from ppl.diagnostics.columns import Columns, columns_of
from ppl.errors import LawViolation, ShapeError

RATE = 1e-6
MOST_PAIRS = 28
MOST_POINTS = 256
"""Draws of each sample that the kernel test looks at: its cost grows with their square."""
EXCEEDANCES = 20
SHOWN = 8


class Row(NamedTuple):
    """One test: what of (`theta[2]`, or a pair of them), by which test, its statistic and its p-value."""

    quantity: str
    test: str
    statistic: float
    p_value: float


@dataclass(frozen=True)
class TwoSample:
    """What the tests say of two samples.

    Attributes:
        rows: one per test, the smallest p-value first.
        sizes: numbers of draws.
    """

    rows: tuple[Row, ...]
    sizes: tuple[int, int]

    @property
    def p_value(self) -> float:
        """The smallest p-value times the number of tests (Bonferroni), at most 1."""
        return min(1.0, len(self.rows) * self.rows[0].p_value)

    def check(self, rate: float = RATE) -> "TwoSample":
        """Raise where the samples differ.

        Args:
            rate: how often two samples of one law may be called different.

        Raises:
            LawViolation: with the tests that tell them apart.
        """
        if self.p_value < rate:
            raise LawViolation(
                f"Two samples that should have one law differ: p = {self.p_value:.2g}, below the rate {rate:g} of "
                f"false alarms.\n{self!r}"
            )
        return self

    def __repr__(self) -> str:
        """The tests, smallest p-values first."""
        width = max(len(row.quantity) for row in self.rows)
        lines = [f"{len(self.rows)} tests of {self.sizes[0]} against {self.sizes[1]} draws: p = {self.p_value:.2g}"]
        lines += [
            f"  {r.quantity:{width}}  {r.test:13} {r.statistic:10.4g}   p = {r.p_value:.2g}" for r in self.rows[:SHOWN]
        ]
        hidden = len(self.rows) - SHOWN
        return "\n".join([*lines, f"  and {hidden} more"] if hidden > 0 else lines)


def two_sample(
    first: Mapping[str, Shaped[Array | np.ndarray, "n ..."]],
    second: Mapping[str, Shaped[Array | np.ndarray, "m ..."]],
    *,
    pairs: bool = True,
    permutations: int = 0,
    seed: int = 0,
) -> TwoSample:
    """Test that two samples of independent draws have one law.

    Every scalar is tested in place (Mann-Whitney), in spread (Mann-Whitney of the distance from the pooled median) and
    in its distribution function (Kolmogorov-Smirnov); every pair of scalars, at most 28, in its dependence
    (Mann-Whitney of the size of the difference and of the sum of the pooled ranks).

    Args:
        first: draws by name, the leading axis runs over independent draws; elements of a name are tested one by one.
        second: draws of the same names and shapes, perhaps another number of them.
        pairs: whether to test pairs.
        permutations: the most permutations of a kernel test (MMD) of the first 256 draws' whole vectors; 0 for none.
            Its p-value is at least 1 / permutations, times the number of tests: for a rate of 1e-6 call `mmd_test` by
            itself with 2**21 (some 20 seconds where the samples differ; it stops at once where they do not).
        seed: for the permutations.

    Returns:
        A `TwoSample`.

    Raises:
        ShapeError: the names or shapes differ, or a sample has fewer than two draws.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> a, b = {"x": rng.normal(size=400)}, {"x": rng.normal(size=300)}
        >>> two_sample(a, b).p_value > 0.01, two_sample(a, {"x": 1.5 * b["x"]}).p_value < 1e-3
        (True, True)
    """
    one, other = columns_of(first), columns_of(second)
    _check_columns(one, other)
    rows = [row for i, name in enumerate(one.names) for row in _scalar_rows(name, one.values[:, i], other.values[:, i])]
    if pairs:
        rows += _pair_rows(one, other)
    if permutations:
        statistic, p_value = mmd_test(one.values, other.values, permutations=permutations, seed=seed)
        rows.append(Row("(all)", "MMD", statistic, p_value))
    sizes = (len(one.values), len(other.values))
    return TwoSample(tuple(sorted(rows, key=lambda row: row.p_value)), sizes)


def mmd_test(
    first: Float[np.ndarray, "n dim"], second: Float[np.ndarray, "m dim"], *, permutations: int, seed: int = 0
) -> tuple[float, float]:
    """Kernel two-sample test by permutations: squared maximum mean discrepancy of a Gaussian kernel.

    Coordinates are replaced by their pooled ranks; the kernel is exp(-4 d^2 / median d^2), narrower than is usual,
    since the rank tests see shifts better. The permutations stop once 20 of them reach the statistic (Besag and
    Clifford): `p = 20 / tried`, else `p = (reached + 1) / (permutations + 1)`; either is valid.

    Args:
        first: draws; the first 256 are used.
        second: draws; the first 256 are used.
        permutations: the most to try.
        seed: for the permutations.

    Returns:
        The biased squared discrepancy, and the p-value.
    """
    one, other = first[:MOST_POINTS], second[:MOST_POINTS]
    gram = _gram(_ranks(np.concatenate([one, other])))
    labels = np.concatenate([np.full(len(one), 1 / len(one)), np.full(len(other), -1 / len(other))])
    gram, labels = gram.astype(np.float32), labels.astype(np.float32)
    observed = float(labels @ gram @ labels)
    rng = np.random.default_rng(seed)
    tried, reached, batch = 0, 0, 256
    while tried < permutations:
        count = min(batch, permutations - tried)
        signs = rng.permuted(np.broadcast_to(labels, (count, len(labels))), axis=1)
        hits = np.flatnonzero(np.sum((signs @ gram) * signs, axis=1) >= observed * (1 - 1e-5))
        if reached + len(hits) >= EXCEEDANCES:
            return observed, EXCEEDANCES / (tried + int(hits[EXCEEDANCES - reached - 1]) + 1)
        reached, tried = reached + len(hits), tried + count
        batch = min(2 * batch, 2**15)
    return observed, (reached + 1) / (tried + 1)


def _scalar_rows(name: str, first: np.ndarray, second: np.ndarray) -> list[Row]:
    from scipy import stats  # on first use: it costs as much as the package

    centre = np.median(np.concatenate([first, second]))
    smirnov: Any = stats.ks_2samp(first, second)
    return [
        _mann_whitney(name, "place", first, second),
        _mann_whitney(name, "spread", np.abs(first - centre), np.abs(second - centre)),
        Row(name, "distribution", float(smirnov.statistic), float(smirnov.pvalue)),
    ]


def _mann_whitney(name: str, test: str, first: np.ndarray, second: np.ndarray) -> Row:
    """The probability that a draw of the first exceeds one of the second, ties counted half; 1/2 under one law."""
    from scipy import stats  # on first use: it costs as much as the package

    if np.ptp(np.concatenate([first, second])) == 0:
        return Row(name, test, 0.5, 1.0)
    found: Any = stats.mannwhitneyu(first, second, method="asymptotic")
    return Row(name, test, float(found.statistic) / (len(first) * len(second)), float(found.pvalue))


def _pair_rows(one: Columns, other: Columns) -> list[Row]:
    ranks = _ranks(np.concatenate([one.values, other.values]))
    size = len(one.values)
    pairs = itertools.islice(itertools.combinations(range(len(one.names)), 2), MOST_PAIRS)
    return [
        _mann_whitney(f"{one.names[i]} {sign} {one.names[j]}", "dependence", distance[:size], distance[size:])
        for i, j in pairs
        for sign, distance in (("-", np.abs(ranks[:, i] - ranks[:, j])), ("+", np.abs(ranks[:, i] + ranks[:, j])))
    ]


def _ranks(pool: np.ndarray) -> np.ndarray:
    """Ranks of each column, centred and scaled to (-1, 1)."""
    from scipy import stats  # on first use: it costs as much as the package

    return 2 * (stats.rankdata(pool, axis=0) - 0.5) / len(pool) - 1


def _gram(points: np.ndarray) -> np.ndarray:
    distances = np.sum(np.square(points[:, None] - points[None]), axis=-1)
    middle: Any = np.median(distances[np.triu_indices(len(points), 1)])
    return np.exp(-4 * distances / (middle or 1.0))


def _check_columns(one: Columns, other: Columns) -> None:
    if one.names != other.names:
        odd = sorted(set(one.names) ^ set(other.names))
        raise ShapeError(
            f"Two samples must have the same scalars to be compared; only one of them has {', '.join(odd[:SHOWN])}.\n"
            "Expected: the same names, with the same shapes after the leading axis."
        )
    if min(len(one.values), len(other.values)) < 2 or not one.names:
        raise ShapeError(
            f"Two samples of {len(one.values)} and {len(other.values)} draws of {len(one.names)} scalars cannot be "
            "compared.\nExpected: at least 2 independent draws each, along the leading axis, of at least one scalar."
        )
