"""Population transformers on explicit finite measures, over Fractions: the oracle of the measure-preservation laws.

`Outcomes` is the law of a random population: `{((value, weight), ...): probability}`. Weights are plain, not logs.
A transformer t is valid when `meaning(t(outcomes)) == meaning(outcomes)`.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from fractions import Fraction
from itertools import product
from math import floor, prod

from tests.oracle.ast import Program
from tests.oracle.fractions_enumerator import Measure, paths

Population = tuple[tuple[Hashable, Fraction], ...]
Outcomes = dict[Population, Fraction]
Resampler = Callable[[list[Fraction], int], Iterable[tuple[tuple[int, ...], Fraction]]]


def weighted(program: Program) -> Outcomes:
    """A program as populations of one particle: the value and the product of its scores, by prior probability."""
    return _collect((((path.value, path.weight),), path.prior) for path in paths(program))


def meaning(outcomes: Outcomes) -> Measure:
    """The measure that a random population represents: expectation of the weighted sum of point masses."""
    measure: Measure = {}
    for population, probability in outcomes.items():
        for value, weight in population:
            measure[value] = measure.get(value, Fraction(0)) + probability * weight
    return {value: mass for value, mass in measure.items() if mass}


def sorted_particles(outcomes: Outcomes) -> Outcomes:
    """The law of the population as a multiset: for comparing schemes that order their offspring differently."""
    return _collect((tuple(sorted(population)), p) for population, p in outcomes.items())


def bind(outcomes: Outcomes, kernel: Callable[[Hashable], Outcomes]) -> Outcomes:
    """Every particle goes on independently; its weight multiplies those of what it becomes."""
    return _collect(
        (_concatenated(population, parts), p * prod((q for _, q in parts), start=Fraction(1)))
        for population, p in outcomes.items()
        for parts in product(*(kernel(value).items() for value, _ in population))
    )


def spawn(outcomes: Outcomes, n: int) -> Outcomes:
    """`spawn(n)` before the program: n independent copies, each of weight 1/n times its own."""
    start: Outcomes = {(((), Fraction(1, n)),) * n: Fraction(1)}
    return bind(start, lambda _: outcomes)


def spawn_after(outcomes: Outcomes, n: int) -> Outcomes:
    """`spawn(n)` behind the program: each particle n times over, with 1/n of its weight."""
    return bind(outcomes, lambda value: {((value, Fraction(1, n)),) * n: Fraction(1)})


def resample_multinomial(outcomes: Outcomes, n: int | None = None) -> Outcomes:
    """Independent ancestors in proportion to weight."""
    return _resample(outcomes, multinomial_law, n)


def resample_systematic(outcomes: Outcomes, n: int | None = None) -> Outcomes:
    """Ancestors at the positions (i + u)/n with one uniform u."""
    return _resample(outcomes, systematic_law, n)


def resample_stratified(outcomes: Outcomes, n: int | None = None) -> Outcomes:
    """Ancestors at the positions (i + u_i)/n with independent uniforms."""
    return _resample(outcomes, stratified_law, n)


def resample_residual(outcomes: Outcomes, n: int | None = None) -> Outcomes:
    """floor(n w) copies for certain, multinomial remainders after them."""
    return _resample(outcomes, residual_law, n)


def resample_ssp(outcomes: Outcomes, n: int | None = None) -> Outcomes:
    """Fractional parts of n w fight one after the other."""
    return _resample(outcomes, ssp_law, n)


def resample_killing(outcomes: Outcomes, n: int | None = None) -> Outcomes:
    """A position keeps its particle with probability w / max w, or else draws one."""
    return _resample(outcomes, killing_law, n)


def resample_adaptive(outcomes: Outcomes, scheme: Callable[[Outcomes], Outcomes], threshold: Fraction) -> Outcomes:
    """Resample the populations whose effective size is below threshold times their size."""

    def one(population: Population) -> Iterable[tuple[Population, Fraction]]:
        alone = {population: Fraction(1)}
        return (scheme(alone) if _poor(population, threshold) else alone).items()

    return _each(outcomes, one)


def proper(outcomes: Outcomes) -> Outcomes:
    """One particle drawn in proportion, with the total weight; the first one where all weights are zero."""

    def one(population: Population) -> Iterator[tuple[Population, Fraction]]:
        total = total_weight(population)
        if not total:
            yield (population[0],), Fraction(1)
            return
        yield from ((((value, total),), weight / total) for value, weight in population if weight)

    return _each(outcomes, one)


def push_evidence(outcomes: Outcomes) -> Outcomes:
    """Weights normalised, the total multiplied into the outer measure: the result has masses, not probabilities."""
    pushed = _each(outcomes, lambda population: [(_scaled(population), total_weight(population))])
    return {population: mass for population, mass in pushed.items() if mass}


def self_normalize(outcomes: Outcomes) -> Outcomes:
    """NOT valid (law 20): weights normalised, the total forgotten."""
    return _each(outcomes, lambda population: [(_scaled(population), Fraction(1))])


def total_weight(population: Population) -> Fraction:
    """The sum of the weights."""
    return sum((weight for _, weight in population), Fraction(0))


def multinomial_law(shares: list[Fraction], n: int) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """Ancestors of n positions with their probabilities."""
    for ancestors in product(range(len(shares)), repeat=n):
        yield ancestors, prod((shares[j] for j in ancestors), start=Fraction(1))


def systematic_law(shares: list[Fraction], n: int) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """[0, 1) cut at the fractional parts of n C_j: on each cell the ancestors are constant."""
    ends = _scaled_ends(shares, n)
    cuts = sorted({Fraction(0), Fraction(1), *(end - floor(end) for end in ends)})
    for left, right in zip(cuts, cuts[1:], strict=False):
        yield tuple(_holder(ends, i + left) for i in range(n)), right - left


def stratified_law(shares: list[Fraction], n: int) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """Position i has particle j with the length of [n C_{j-1}, n C_j) inside [i, i + 1)."""
    ends = _scaled_ends(shares, n)
    starts = [Fraction(0), *ends[:-1]]
    overlap = lambda i, j: max(Fraction(0), min(ends[j], Fraction(i + 1)) - max(starts[j], Fraction(i)))
    for ancestors in product(range(len(shares)), repeat=n):
        yield ancestors, prod((overlap(i, j) for i, j in enumerate(ancestors)), start=Fraction(1))


def residual_law(shares: list[Fraction], n: int) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """The certain copies in the order of the particles, then the drawn ones."""
    certain = tuple(j for j, share in enumerate(shares) for _ in range(floor(n * share)))
    left = n - len(certain)
    if not left:
        yield certain, Fraction(1)
        return
    rest = [(n * share - floor(n * share)) / left for share in shares]
    yield from ((certain + drawn, p) for drawn, p in multinomial_law(rest, left))


def ssp_law(shares: list[Fraction], n: int) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """Srinivasan's process as in Gerber, Chopin and Whiteley (2019), algorithm 2; ancestors in rising order."""
    whole = [floor(n * share) for share in shares]
    parts = [n * share - floor(n * share) for share in shares]
    for raised, p in _fights(parts, 0, 1):
        yield tuple(j for j, copies in enumerate(whole) for _ in range(copies + int(raised[j]))), p


def killing_law(shares: list[Fraction], n: int) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """Independent positions; those beyond the last whole population draw."""
    count, top = len(shares), max(shares)
    keep = [shares[i % count] / top if i < n // count * count else Fraction(0) for i in range(n)]
    chance = lambda i, j: (keep[i] if j == i % count else 0) + (1 - keep[i]) * shares[j]
    for ancestors in product(range(count), repeat=n):
        yield ancestors, prod((chance(i, j) for i, j in enumerate(ancestors)), start=Fraction(1))


def shifted(law: Iterable[tuple[tuple[int, ...], Fraction]], n: int) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """The positions of ancestors shifted cyclically by a uniform amount."""
    yield from ((a[shift:] + a[:shift], p / n) for a, p in law for shift in range(n))


def given_first(law: Iterable[tuple[tuple[int, ...], Fraction]]) -> dict[tuple[int, ...], Fraction]:
    """The law of ancestors given that the first of them is particle 0."""
    kept: dict[tuple[int, ...], Fraction] = {}
    for ancestors, p in law:
        if p and ancestors[0] == 0:
            kept[ancestors] = kept.get(ancestors, Fraction(0)) + p
    total = sum(kept.values(), Fraction(0))
    return {ancestors: p / total for ancestors, p in kept.items()}


def _fights(parts: list[Fraction], i: int, j: int) -> Iterator[tuple[list[Fraction], Fraction]]:
    """All ways to round the parts to 0 and 1: particle i, which carries what is left, meets particle j."""
    if j == len(parts):
        yield parts, Fraction(1)
        return
    a, b = parts[i], parts[j]
    low, high = (Fraction(0), a + b) if a + b < 1 else (a + b - 1, Fraction(1))
    if low == high or {a, b} <= {0, 1}:
        yield from _fights(parts, i if 0 < a < 1 else j, j + 1)
        return
    for first, second, p in ((high, low, (a - low) / (high - low)), (low, high, (high - a) / (high - low))):
        after = [*parts[:i], first, *parts[i + 1 : j], second, *parts[j + 1 :]]
        if p:
            yield from ((end, p * q) for end, q in _fights(after, i if 0 < first < 1 else j, j + 1))


def _resample(outcomes: Outcomes, law: Resampler, n: int | None) -> Outcomes:
    def one(population: Population) -> Iterator[tuple[Population, Fraction]]:
        total, size = total_weight(population), n or len(population)
        if not total:
            yield population, Fraction(1)
            return
        for ancestors, p in law([weight / total for _, weight in population], size):
            yield tuple((population[j][0], total / size) for j in ancestors), p

    return _each(outcomes, one)


def _each(outcomes: Outcomes, f: Callable[[Population], Iterable[tuple[Population, Fraction]]]) -> Outcomes:
    """Apply a random map to every population."""
    return _collect(
        (after, probability * p) for population, probability in outcomes.items() for after, p in f(population)
    )


def _collect(pairs: Iterable[tuple[Population, Fraction]]) -> Outcomes:
    collected: Outcomes = {}
    for population, p in pairs:
        if p:
            collected[population] = collected.get(population, Fraction(0)) + p
    return collected


def _concatenated(population: Population, parts: tuple[tuple[Population, Fraction], ...]) -> Population:
    return tuple(
        (value, outer * inner) for (_, outer), (part, _) in zip(population, parts, strict=True) for value, inner in part
    )


def _scaled(population: Population) -> Population:
    total = total_weight(population)
    return tuple((value, weight / total) for value, weight in population) if total else population


def _poor(population: Population, threshold: Fraction) -> bool:
    squares = sum((weight**2 for _, weight in population), Fraction(0))
    return total_weight(population) ** 2 < threshold * len(population) * squares


def _scaled_ends(shares: list[Fraction], n: int) -> list[Fraction]:
    return [n * sum(shares[: j + 1], Fraction(0)) for j in range(len(shares))]


def _holder(ends: list[Fraction], position: Fraction) -> int:
    return next(j for j, end in enumerate(ends) if end > position)
