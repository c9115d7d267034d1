"""Law 40: every gradient strategy, and every pair of them in one objective, is unbiased for value and gradient.

Exactly where the choices are finite (all noise of the estimator summed out, against the enumerated program), else by
many evaluations with a false-alarm rate of 1e-6 a test. The mutants die by the same two functions.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl import vi
from ppl.distributions.finite import outcomes
from ppl.errors import LawViolation
from ppl.testing import check_estimator, gradient_gap
from ppl.vi.enumeration import Enumerate
from ppl.vi.score import Score
from ppl.vi.strategy import Totals, nothing, weighted_sum, with_tangent
from ppl.vi.weak_derivatives import FAMILIES
from tests.catalogue import STRATEGIES

FINITE = [name for name, entry in STRATEGIES.items() if entry.grid is None]
OTHERS = [name for name in STRATEGIES if name not in FINITE]
AT, EXACT = 0.7, 1e-8


pytestmark = pytest.mark.usefixtures("float64")


def cost_of(t, a, b):
    return t**2 * a + jnp.sin((b + 0.5) * t) + 1.75 * a * b - 0.25


def pair(first, second):
    one, two = STRATEGIES[first], STRATEGIES[second]

    @vi.objective
    def cost(t):
        a = ppl.sample("a", one.law(t), grad=one.make()).astype(float)
        b = ppl.sample("b", two.law(t + 0.5 * jnp.tanh(a)), grad=two.make()).astype(float)
        return cost_of(t, a, b)

    return cost


# --- where each strategy can stand: alone, in lanes, in a loop, in a branch ------------------------------------------


def alone(strategy, law):
    return lambda t: t**2 * ppl.sample("a", law(t), grad=strategy) + jnp.sin(t)


def lanes(strategy, law):
    def cost(t):
        def lane(x):
            a = ppl.sample("a", law(t * x), grad=strategy)
            return a * x + ppl.sample("c", dist.Bernoulli(jax.nn.sigmoid(t + a)), grad=vi.score()) * t

        return jnp.prod(ppl.vmap(lane)(jnp.array([1.0, -0.5])) + 1.25)

    return cost


def loop(strategy, law):
    def cost(t):
        def step(state, x):
            a = ppl.sample("a", law(t * x + state), grad=strategy)
            return 0.5 * state + a * t, a * x

        state, ys = lax.scan(step, 0.0 * t, jnp.array([1.0, -0.5]))
        return jnp.sum(ys) * state + state

    return cost


def branch(strategy, law):
    def cost(t):
        def yes():
            return t * ppl.sample("a", law(t), grad=strategy)

        def no():
            return 2.0 + t * ppl.sample("b", law(2 * t), grad=vi.enumerate())

        return lax.cond(ppl.sample("c", dist.Bernoulli(jax.nn.sigmoid(t)), grad=strategy) == 1, yes, no) ** 2

    return cost


PLACES = {"alone": alone, "lanes": lanes, "loop": loop, "branch": branch}


def test_every_strategy_of_the_table_is_in_the_catalogue():
    assert {entry.covers for entry in STRATEGIES.values()} == set(vi.STRATEGIES)


def some(values, quick):
    """The values as parameters of a test; those that are not quick run in `make slow`."""
    return [pytest.param(*v, marks=() if v in quick else pytest.mark.slow) for v in values]


QUICK = [*((name, "alone") for name in FINITE), *(("score", place) for place in PLACES)]
QUICK += [("enumerate", "lanes"), ("enumerate", "branch"), ("measure_valued", "loop")]


@pytest.mark.parametrize(("name", "place"), some([(name, place) for name in FINITE for place in PLACES], QUICK))
def test_40_a_strategy_is_unbiased_wherever_it_stands(name, place):
    entry = STRATEGIES[name]
    assert max(gradient_gap(vi.objective(PLACES[place](entry.make(), entry.law)), AT)) < EXACT


@pytest.mark.parametrize("first", ["score", "score, leave one out", "enumerate", "measure_valued"])
def test_40_every_pair_of_strategies_is_unbiased(first):
    core = ["score", "score, leave one out", "enumerate", "measure_valued"]
    for second in core[core.index(first) :]:
        assert max(gradient_gap(pair(first, second), AT)) < EXACT, second


@pytest.mark.slow
@pytest.mark.parametrize("first", FINITE)
def test_40_every_ordered_pair_of_strategies_is_unbiased(first):
    for second in FINITE:
        assert max(gradient_gap(pair(first, second), AT)) < EXACT, second


def test_40_the_oracle_has_the_derivative_of_its_finite_differences():
    cost = pair("enumerate", "score")

    def value(t):
        found = cost(t).enumerate()
        return jnp.sum(found.weights * found.values)

    h = 1e-3
    slope = (8 * (value(AT + h) - value(AT - h)) - (value(AT + 2 * h) - value(AT - 2 * h))) / (12 * h)
    assert abs(slope - jax.grad(cost.expect)(AT)) < EXACT


@pytest.mark.parametrize("name", ["score", "score, leave one out", "measure_valued"])
def test_40_a_batch_of_evaluations_is_a_loop_over_them(name, key):
    cost, keys, at = pair(name, "enumerate"), jax.random.split(key, 3), jnp.array([0.2, 0.7, -1.0])
    batch = jax.jit(jax.vmap(cost.value_and_grad))(keys, at)
    rows = [cost.value_and_grad(k, t) for k, t in zip(keys, at, strict=True)]
    for got, wanted in zip(batch, zip(*rows, strict=True), strict=True):
        assert jnp.allclose(got, jnp.stack(wanted), rtol=1e-10, atol=1e-10)


# --- by many evaluations (false-alarm rate 1e-6 each) ----------------------------------------------------------------


def points(entry, t):
    """The values of a choice with their masses."""
    law = entry.law(t)
    if entry.grid is None:
        return jnp.arange(2.0), jnp.exp(law.log_prob(jnp.arange(2)))
    grid = entry.grid()
    return grid.astype(float), jnp.exp(law.log_prob(grid)) * (grid[1] - grid[0])


def exactly(first, second):
    """The expected cost of a pair by quadrature."""
    one, two = STRATEGIES[first], STRATEGIES[second]

    def value(t):
        def inner(a):
            b, masses = points(two, t + 0.5 * jnp.tanh(a))
            return jnp.sum(masses * jax.vmap(lambda b: cost_of(t, a, b))(b))

        a, masses = points(one, t)
        return jnp.sum(masses * jax.vmap(inner)(a))

    return value


def with_every(first, names, key):
    for second in names:
        check_estimator(pair(first, second), AT, key=key, exact=exactly(first, second), replicates=4000)


@pytest.mark.parametrize("name", ["reparam, normal", "measure_valued, normal"])
def test_40_a_continuous_strategy_beside_a_coin(name, key):
    with_every(name, ["score"], key)


@pytest.mark.slow
@pytest.mark.parametrize("first", [*OTHERS, *FINITE])
def test_40_every_pair_with_a_continuous_strategy(first, key):
    with_every(first, OTHERS, key)
    with_every(first, FINITE if first in OTHERS else [], key)


@pytest.mark.parametrize("place", ["lanes", "loop", "branch"])
@pytest.mark.slow
def test_40_the_drawn_estimator_has_the_exact_means(place, key):
    cost = vi.objective(PLACES[place](vi.score(1.25), STRATEGIES["score"].law))
    report = check_estimator(cost, AT, key=key)  # what is summed out
    assert report.exact

    def exact(t):
        found = cost(t).enumerate()
        return jnp.sum(found.weights * found.values)

    drawn = vi.objective(lambda t: cost.function(t) + 0.0 * ppl.sample("noise", dist.Normal(0.0, 1.0)))
    assert not check_estimator(drawn, AT, key=key, exact=exact).exact


# --- mutants ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WrongSign(Score):
    def made(self, node: Any, raw: Any, run: Any) -> Any:
        value, totals = super().made(node, raw, run)
        return value, Totals(-totals.slope, totals.offset)


@dataclass(frozen=True)
class DroppedScore(Score):
    def made(self, node: Any, raw: Any, run: Any) -> Any:
        return lax.stop_gradient(raw), nothing()


@dataclass(frozen=True)
class BaselineOfTheDraw(Score):
    def made(self, node: Any, raw: Any, run: Any) -> Any:
        value, totals = super().made(node, raw, run)
        return value, totals._replace(offset=jnp.sum(value) * totals.slope)


@dataclass(frozen=True)
class OneValueForTheBatch(Enumerate):
    """All elements of a batch have the same value in each term: right for a single choice alone."""

    def expect(self, node: Any, run: Any, rest: Any) -> Any:
        values, log_probs = outcomes(node.measure)
        weights = jnp.exp(log_probs.reshape(len(log_probs), -1).sum(axis=1))
        return weighted_sum(weights, jax.vmap(lambda value: rest(value, run))(values))


@dataclass(frozen=True)
class FixedWeights(Enumerate):
    def expect(self, node: Any, run: Any, rest: Any) -> Any:
        values, log_probs = outcomes(node.measure)
        weights = lax.stop_gradient(jnp.exp(log_probs))
        return weighted_sum(weights, jax.vmap(lambda value: rest(value, run))(values))


@pytest.mark.parametrize("mutant", [WrongSign(), DroppedScore(), BaselineOfTheDraw(), FixedWeights()])
@pytest.mark.parametrize("place", ["alone", "loop"])
def test_40_mutants_die(mutant, place):
    gap = gradient_gap(vi.objective(PLACES[place](mutant, STRATEGIES["score"].law)), AT)
    assert gap.value < EXACT < 1e-3 < gap.gradient


def test_40_an_enumeration_that_is_wrong_in_batches_dies():
    law = STRATEGIES["enumerate"].law
    assert max(gradient_gap(vi.objective(alone(OneValueForTheBatch(), law)), AT)) < EXACT
    with pytest.raises(LawViolation, match="biased"):
        check_estimator(vi.objective(lanes(OneValueForTheBatch(), law)), AT)


def test_40_alternatives_of_the_wrong_weight_die(monkeypatch):
    kind = dist.Bernoulli(logits=0.0).__class__
    family = FAMILIES[kind]

    def halved(*args):
        found = family.alternatives(*args)
        return found._replace(weights=0.5 * found.weights)

    monkeypatch.setitem(FAMILIES, kind, family._replace(alternatives=halved))
    with pytest.raises(LawViolation, match="biased"):
        check_estimator(vi.objective(alone(vi.measure_valued(), STRATEGIES["enumerate"].law)), AT)


@dataclass(frozen=True)
class HalvedPath(Score):
    """A pathwise derivative that is half of what it should be."""

    def made(self, node: Any, raw: Any, run: Any) -> Any:
        fixed = lax.stop_gradient(raw)
        return with_tangent(fixed, 0.5 * jnp.ones_like(fixed), raw), nothing()


@pytest.mark.parametrize("mutant", [WrongSign(), DroppedScore(), HalvedPath()])
def test_40_continuous_mutants_die(mutant, key):
    entry = STRATEGIES["score, normal"]
    with pytest.raises(LawViolation, match="standard errors"):
        check_estimator(vi.objective(alone(mutant, entry.law)), AT, key=key, exact=lambda t: 0.5 * t**3 + jnp.sin(t))


def test_40_finite_differences_find_a_continuous_mutant(key):
    entry = STRATEGIES["reparam, normal"]
    check_estimator(vi.objective(alone(vi.reparam(), entry.law)), AT, key=key, replicates=500)
    with pytest.raises(LawViolation, match="standard errors"):
        check_estimator(vi.objective(alone(HalvedPath(), entry.law)), AT, key=key, replicates=500)
