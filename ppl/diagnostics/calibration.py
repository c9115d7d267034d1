"""Simulation-based calibration: is a method's posterior the posterior? And the one-step joint test of a kernel.

Law (SBC): where (theta, y) is drawn from the model and theta_1..L independently from the exact posterior given y, the
rank of f(theta, y) among f(theta_1, y)..f(theta_L, y) is uniform on 0..L, for every f. Ties are broken at random. An f
of theta alone cannot see a method that returns the prior; the log likelihood can, so take it among the quantities.

Law (one step): where (theta, y) is drawn from the model and K leaves the posterior given y invariant, (K theta, y) has
the same law. Both samples are drawn independently, so the tests are exact, unlike those of a long chain.

This file knows neither programs nor methods: `ppl.testing.sbc` is the door for those.

References: Talts, Betancourt, Simpson, Vehtari, Gelman, "Validating Bayesian inference algorithms with
simulation-based calibration" (2018), algorithm 1; Modrak et al., "Simulation-based calibration checking with
data-dependent test quantities", Bayesian Analysis (2023), theorem 2; Geweke, "Getting it right", JASA 99 (2004).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Shaped
from scipy.special import betaincinv

from ppl.diagnostics.columns import columns_of
from ppl.diagnostics.two_sample import RATE, TwoSample, two_sample
from ppl.diagnostics.uniformity import uniformity_p_value
from ppl.errors import LawViolation, ShapeError
from ppl.typing import PRNGKey

Quantities = Callable[[Any, Any], Mapping[str, Any]]
"""From parameters and data to arrays by name; run under `jax.vmap` and `jax.jit`."""

MOST_LAG_ONE = 0.1
SHOWN = 20


class Coverage(NamedTuple):
    """How often the central interval held the truth.

    Attributes:
        nominal: how often it should.
        observed: the share of replicates in which it did.
        low: lower end of the exact 95% interval (Clopper and Pearson) for the probability.
        high: upper end of it.
    """

    nominal: float
    observed: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of the truth among posterior draws, and what they say.

    Attributes:
        ranks: by quantity, such as `tau` or `theta[2]`: the rank of the truth in each replicate.
        most: the number of posterior draws, which is the largest rank.
        notes: what else was seen, such as draws that are not independent.
    """

    ranks: dict[str, Int[np.ndarray, "replicates"]]
    most: int
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def p_values(self) -> dict[str, float]:
        """Exact p-value of the uniformity of the ranks by quantity (see `ppl.diagnostics.uniformity`)."""
        return {name: uniformity_p_value(ranks, self.most) for name, ranks in self.ranks.items()}

    @property
    def p_value(self) -> float:
        """The smallest p-value times the number of quantities (Bonferroni), at most 1."""
        return min(1.0, len(self.ranks) * min(self.p_values.values()))

    def check(self, rate: float = RATE) -> "Calibration":
        """Raise where the ranks are not uniform.

        Args:
            rate: how often an exact method may be called wrong.

        Raises:
            LawViolation: with the quantities, and in which way their posteriors are wrong.
        """
        if self.p_value < rate:
            raise LawViolation(
                f"The posteriors are not calibrated: p = {self.p_value:.2g}, below the rate {rate:g} of false alarms.\n"
                f"{self!r}"
            )
        return self

    def coverage(self, prob: float = 0.9) -> dict[str, Coverage]:
        """How often the central interval of the draws held the truth, by quantity.

        Args:
            prob: probability of the interval; the nearest that ranks can have is taken, and given as `nominal`.
        """
        return {name: central_coverage(ranks, self.most, prob) for name, ranks in self.ranks.items()}

    def __repr__(self) -> str:
        """A row per quantity, the least uniform first."""
        names = sorted(self.ranks, key=self.p_values.__getitem__)
        width = max(map(len, names))
        replicates = len(self.ranks[names[0]])
        half, most = self.coverage(0.5), self.coverage(0.9)
        lines = [
            f"{replicates} replicates, ranks among {self.most} draws: p = {self.p_value:.2g} "
            f"({len(names)} quantities, Bonferroni)",
            f"  {'':{width}}        p   mean rank   50%   90%",
        ]
        for name in names[:SHOWN]:
            mean = float(self.ranks[name].mean()) / self.most
            cells = f"{self.p_values[name]:8.2g}   {mean:9.2f}  {half[name].observed:4.0%}  {most[name].observed:4.0%}"
            lines.append(f"  {name:{width}} {cells}{self._words(name)}")
        hidden = len(names) - SHOWN
        lines += [f"  and {hidden} more"] if hidden > 0 else []
        return "\n".join([*lines, *(f"! {note}" for note in self.notes)])

    def _words(self, name: str) -> str:
        return "   " + misfit(self.ranks[name], self.most) if self.p_values[name] < 0.01 else ""


def sbc(
    simulate: Callable[[PRNGKey], tuple[Mapping[str, Array], Any]],
    posterior_draws: Callable[[PRNGKey, Any], Mapping[str, Shaped[Array | np.ndarray, "draws ..."]]],
    *,
    key: PRNGKey,
    replicates: int = 200,
    quantities: Quantities | None = None,
) -> Calibration:
    """Rank the truth among posterior draws, many times over.

    Args:
        simulate: draws parameters by address and data from the model, given a key.
        posterior_draws: draws from the posterior given the data, thinned so that they are nearly independent; as many
            in each replicate.
        key: for everything.
        replicates: how many data sets.
        quantities: what is ranked, of parameters and data; by default each scalar of the parameters. Add
            the log likelihood: it kills methods that do not look at the data.

    Returns:
        A `Calibration`.

    Raises:
        ShapeError: the number of draws changes from replicate to replicate.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> def simulate(key):
        ...     noise = jax.random.normal(key, (2,))
        ...     return {"x": noise[0]}, noise.sum()
        >>> def exact(key, y):
        ...     return {"x": y / 2 + jnp.sqrt(0.5) * jax.random.normal(key, (19,))}
        >>> sbc(simulate, exact, key=jax.random.key(0), replicates=100).p_value > 0.01
        True
    """
    evaluate = _evaluator(quantities)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.fold_in(key, 0))).ravel())
    ranks: dict[str, list[int]] = {}
    most, lags = 0, []
    for index, one in enumerate(jax.random.split(jax.random.fold_in(key, 1), replicates)):
        truth_key, draw_key = jax.random.split(one)
        truth, data = simulate(truth_key)
        draws = dict(posterior_draws(draw_key, data))
        values = columns_of(evaluate(_with_truth(truth, draws), data))
        most = _same_count(most or len(values.values) - 1, len(values.values) - 1, index)
        for name, rank in zip(values.names, random_ranks(rng, values.values[0], values.values[1:]), strict=True):
            ranks.setdefault(name, []).append(int(rank))
        lags.append(_lag_one(values.values[1:]))
    return Calibration({a: np.array(r) for a, r in ranks.items()}, most, _lag_notes(list(ranks), np.array(lags)))


def one_step_joint(
    draw_joint: Callable[[PRNGKey], Any],
    move: Callable[[PRNGKey, Any], Any],
    *,
    key: PRNGKey,
    replicates: int = 1000,
    steps: int = 1,
    quantities: Callable[[Any], Mapping[str, Any]] | None = None,
    permutations: int = 0,
) -> TwoSample:
    """Test that a kernel leaves the joint law of parameters and data as it is.

    Args:
        draw_joint: draws parameters and data from the model: a pytree, by default a dict of arrays.
        move: moves the parameters given the data, and returns both.
        key: for everything.
        replicates: size of each of the two samples, which are independent of each other.
        steps: how often to move; more steps show smaller mistakes.
        quantities: what is compared; by default every array of the dict. Add the log density.
        permutations: see `two_sample`.

    Returns:
        A `TwoSample`: call `check()` to raise where the laws differ.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> def draw(key):
        ...     noise = jax.random.normal(key, (2,))
        ...     return {"x": noise[0], "y": noise.sum()}
        >>> def gibbs(key, joint):
        ...     return joint | {"x": joint["y"] / 2 + jnp.sqrt(0.5) * jax.random.normal(key)}
        >>> def too_narrow(key, joint):
        ...     return joint | {"x": joint["y"] / 2 + 0.2 * jax.random.normal(key)}
        >>> one_step_joint(draw, gibbs, key=jax.random.key(0)).p_value > 0.01
        True
        >>> one_step_joint(draw, too_narrow, key=jax.random.key(0)).p_value < 1e-6
        True
    """
    measure = quantities or dict
    still, start, moves = (jax.random.split(k, replicates) for k in jax.random.split(key, 3))

    def moved(start_key: PRNGKey, move_key: PRNGKey) -> Any:
        def step(index: Any, joint: Any) -> Any:
            return move(jax.random.fold_in(move_key, index), joint)

        return measure(jax.lax.fori_loop(0, steps, step, draw_joint(start_key)))

    before = jax.jit(jax.vmap(lambda k: measure(draw_joint(k))))(still)
    after = jax.jit(jax.vmap(moved))(start, moves)
    return two_sample(before, after, permutations=permutations)


def random_ranks(
    rng: np.random.Generator, truth: Float[np.ndarray, "columns"], draws: Float[np.ndarray, "draws columns"]
) -> Int[np.ndarray, "columns"]:
    """How many draws lie below the truth, ties broken at random: uniform on 0..draws where all have one law."""
    return np.sum(draws < truth, axis=0) + rng.integers(0, np.sum(draws == truth, axis=0) + 1)


def central_coverage(ranks: Int[np.ndarray, "replicates"], most: int, prob: float) -> Coverage:
    """How often a rank lies in the middle `prob` of 0..`most`.

    Examples:
        >>> import numpy as np
        >>> central_coverage(np.array([0, 5, 9, 3]), 9, 0.8)[:2]
        (0.8, 0.5)
    """
    outside = round((1 - prob) / 2 * (most + 1))
    inside = int(np.sum((ranks >= outside) & (ranks <= most - outside)))
    count = len(ranks)
    low = float(betaincinv(inside, count - inside + 1, 0.025)) if inside else 0.0
    high = float(betaincinv(inside + 1, count - inside, 0.975)) if inside < count else 1.0
    return Coverage((most + 1 - 2 * outside) / (most + 1), inside / count, low, high)


def misfit(ranks: Int[np.ndarray, "replicates"], most: int) -> str:
    """In words, how the draws miss the truth, from the mean and the spread of the ranks."""
    places = (ranks + 0.5) / (most + 1) - 0.5
    shift = float(places.mean()) * math.sqrt(12 * len(ranks))
    spread = (float(np.square(places).mean()) * 12 - 1) * math.sqrt(len(ranks) / 0.8)
    if abs(shift) > abs(spread):
        return "draws too low: the truth lies above" if shift > 0 else "draws too high: the truth lies below"
    return "draws too narrow" if spread > 0 else "draws too wide"


def _evaluator(quantities: Quantities | None) -> Callable[[Any, Any], Mapping[str, Any]]:
    if quantities is None:
        return lambda parameters, data: parameters
    return jax.jit(lambda parameters, data: jax.vmap(lambda one: quantities(one, data))(parameters))


def _with_truth(truth: Mapping[str, Any], draws: dict[str, Any]) -> dict[str, np.ndarray]:
    """The truth as the first of the draws."""
    return {a: np.concatenate([np.asarray(x)[None], np.asarray(draws[a])]) for a, x in truth.items()}


def _same_count(most: int, count: int, index: int) -> int:
    if count != most or not most:
        raise ShapeError(
            f"Replicate {index} has {count} posterior draws; the first had {most}.\n"
            "Expected: as many draws in each, and at least one: thin to a number that does not depend on the data."
        )
    return most


def _lag_one(draws: np.ndarray) -> np.ndarray:
    """Autocorrelation of each column's draws with their neighbours; 0 for constant draws."""
    centred = draws - draws.mean(axis=0)
    variance = np.mean(np.square(centred), axis=0)
    return np.mean(centred[1:] * centred[:-1], axis=0) / np.where(variance > 0, variance, np.inf)


def _lag_notes(names: list[str], lags: np.ndarray) -> tuple[str, ...]:
    means = lags.mean(axis=0)
    worst = int(means.argmax())
    if not means[worst] > MOST_LAG_ONE:
        return ()
    return (
        f"neighbouring draws of {names[worst]} are correlated ({means[worst]:.2f}): ranks are then not uniform even "
        "for an exact sampler. Thin more: run longer chains, or keep fewer draws.",
    )
