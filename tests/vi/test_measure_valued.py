"""Measure-valued derivatives: exact where the choice is finite, by evaluations for Poisson and normal ones.

The exact surrogate's derivative is compared with central differences of its value (law 40 compares the value with the
enumerated program). The statistical tests have a false-alarm rate of 1e-6 each.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.scipy.special import ndtr
from jax.scipy.stats import poisson

import ppl
import ppl.distributions as dist
from ppl import vi
from ppl.errors import LawViolation, StrategyError
from ppl.testing import check_estimator
from ppl.vi.weak_derivatives import FAMILIES

MODULE = sys.modules["ppl.vi.weak_derivatives"]
AT, STEP = 0.6, 1e-5


pytestmark = pytest.mark.usefixtures("float64")


def choice(address, law):
    return ppl.sample(address, law, grad=vi.measure_valued())


# --- finite choices, exactly -----------------------------------------------------------------------------------------


def coin_and_die(t):
    """A die in logits whose law depends on a coin in probabilities, and a scored coin behind both."""
    a = choice("a", dist.Bernoulli(0.5 * t))
    b = choice("b", dist.Categorical(logits=jnp.array([0.2, -0.3, 0.5]) * (1 + a * t)))
    c = ppl.sample("c", dist.Bernoulli(jax.nn.sigmoid(t * b + a)), grad=vi.score())
    return t**2 * a + jnp.sin(b * t) + 1.75 * c * b


def die_and_coin(t):
    """The other way round, in the other parameters."""
    b = choice("b", dist.Categorical(probs=jnp.stack([0.2 * t, 0.7 - 0.2 * t, jnp.float64(0.3)])))
    a = choice("a", dist.Bernoulli(logits=t * b - 0.5))
    return jnp.exp(t * a) * b**2 - a


def batch(t):
    """Five elements, two of them expanded, that the cost multiplies."""
    a = choice("a", dist.Bernoulli(t * jnp.array([0.3, 0.9, 1.2])))
    b = choice("b", dist.Bernoulli(0.5 * t).expand([2]).to_event(1))
    return jnp.prod(a * jnp.array([1.0, 2.0, -0.5]) + t) * (1.0 + b[0] - 2.0 * t * b[1])


def lanes(t):
    def lane(x):
        a = choice("a", dist.Bernoulli(jax.nn.sigmoid(t * x)))
        b = ppl.sample("b", dist.Bernoulli(jax.nn.sigmoid(t * x + a)), grad=vi.score())
        return a * x + b * t

    return jnp.prod(ppl.vmap(lane)(jnp.array([1.0, -0.5])) + 1.25)


def loop(t):
    def step(state, x):
        a = choice("a", dist.Bernoulli(jax.nn.sigmoid(t * x + state)))
        return 0.5 * state + a * t, a * x

    state, ys = lax.scan(step, 0.0 * t, jnp.array([1.0, 2.0, -0.5]))
    return jnp.sum(ys * jnp.array([1.0, 0.3, 2.0])) * state * t


def branch(t):
    a = choice("a", dist.Bernoulli(0.3 * t))
    return lax.cond(
        a > 0,
        lambda: t * choice("b", dist.Bernoulli(0.5 * t)),
        lambda: 2.0 * choice("c", dist.Categorical(logits=jnp.stack([t, 2 * t, -t]))),
    )


def impossible(t):
    """Infinite where there is no mass."""
    k = choice("k", dist.Categorical(probs=jnp.stack([0.5 * t, 1 - 0.5 * t, 0.0 * t])))
    return jnp.where(k == 2, jnp.inf, 1.0 + t * k)


@pytest.mark.parametrize("cost", [coin_and_die, die_and_coin, batch, lanes, loop, branch])
def test_the_derivative_is_exact(cost):
    got = jax.jit(jax.value_and_grad(vi.objective(cost).expect))
    (up, _), (down, _), (_, slope) = got(AT + STEP), got(AT - STEP), got(AT)
    np.testing.assert_allclose(slope, (up - down) / (2 * STEP), rtol=1e-7)


def test_an_impossible_alternative_of_infinite_cost_counts_for_nothing(key):
    """At a draw of 0 the other alternative costs `t` more, its probability falling by a half; at 1 the reverse."""
    grads = jax.vmap(lambda key: vi.objective(impossible).grad(key, AT))(jax.random.split(key, 100))
    np.testing.assert_allclose(jnp.unique(grads.round(9)), [-0.5 * AT, 1.0 - 0.5 * AT])


# --- Poisson and normal choices --------------------------------------------------------------------------------------


def make_counts():
    def counts(t):
        n = choice("n", dist.Poisson(jnp.array([1.0, 2.0]) * t))
        return jnp.cos(n[0] * n[1] * t) + 0.5 * n[0]

    return vi.objective(counts)


def mean_of_counts(t):
    n = jnp.arange(25.0)
    first, second = jnp.exp(poisson.logpmf(n, t)), jnp.exp(poisson.logpmf(n, 2 * t))
    costs = jnp.cos(n[:, None] * n[None, :] * t) + 0.5 * n[:, None]
    return first @ costs @ second


def make_bells():
    def bells(t):
        x = choice("x", dist.Normal(jnp.array([1.0, 2.0]) * t, jnp.exp(t) * jnp.array([0.6, 0.2])))
        return jnp.where(x[0] > 0.5, 1.0, 0.0) * x[1] ** 2 + t * x[0]

    return vi.objective(bells)


def mean_of_bells(t):
    means, sds = jnp.array([1.0, 2.0]) * t, jnp.exp(t) * jnp.array([0.6, 0.2])
    return ndtr((means[0] - 0.5) / sds[0]) * (means[1] ** 2 + sds[1] ** 2) + t * means[0]


def test_poisson_choices(key):
    check_estimator(make_counts(), AT, key=key, exact=mean_of_counts, replicates=20_000)


def test_normal_choices_of_a_cost_that_jumps(key):
    check_estimator(make_bells(), AT, key=key, exact=mean_of_bells, replicates=20_000)


def wrong_sign(patch):
    family = FAMILIES[dist.Poisson]

    def alternatives(parameters, value, key):
        found = family.alternatives(parameters, value, key)
        return found._replace(weights=-found.weights)

    patch.setitem(FAMILIES, dist.Poisson, family._replace(alternatives=alternatives))


def no_normaliser(patch):
    family = FAMILIES[dist.Normal]

    def alternatives(parameters, value, key):
        found = family.alternatives(parameters, value, key)
        factors = jnp.array([jnp.sqrt(2 * jnp.pi)] * 2 + [1.0]).reshape(3, *(1,) * value.ndim)
        return found._replace(weights=found.weights * factors)

    patch.setitem(FAMILIES, dist.Normal, family._replace(alternatives=alternatives))


def all_elements_at_once(patch):
    def changed(value, alternatives):
        return jnp.repeat(alternatives, value.size, axis=0).astype(value.dtype)

    patch.setattr(MODULE, "_changed", changed)


MUTANTS = {
    "wrong sign": (wrong_sign, make_counts, mean_of_counts),
    "no normaliser": (no_normaliser, make_bells, mean_of_bells),
    "all elements at once": (all_elements_at_once, make_counts, mean_of_counts),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_die(name, key, monkeypatch):
    mutate, make, exact = MUTANTS[name]
    mutate(monkeypatch)
    with pytest.raises(LawViolation, match="its gradient"):
        check_estimator(make(), AT, key=key, exact=exact, replicates=20_000)


def test_other_families_are_refused():
    cost = vi.objective(lambda t: choice("g", dist.Gamma(t, 1.0)))
    with pytest.raises(StrategyError, match=r"(?s)'g' \(test_measure_valued.py:\d+\).*its law is a Gamma.*vi.reparam"):
        cost.grad(0, AT)
