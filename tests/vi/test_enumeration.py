"""Enumerated choices: derivatives at the boundary, batches, and values whose cost is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl import vi


@vi.objective
def coins(p):
    b = ppl.sample("b", dist.Bernoulli(p * jnp.ones(3)), grad=vi.enumerate())
    return jnp.prod(1.0 + b) - 2.0 * b[0]


def mean_of_coins(p):
    return (1 + p) ** 3 - 2 * p


@vi.objective
def die(p):
    k = ppl.sample("k", dist.Categorical(probs=jnp.stack([p, 0.5 - p, 0.5])), grad=vi.enumerate())
    return jnp.asarray([1.0, 5.0, 2.0])[k]


@vi.objective
def lanes(p):
    def lane(x):
        return ppl.sample("b", dist.Bernoulli(p), grad=vi.enumerate()) * x

    return jnp.prod(1.0 + ppl.vmap(lane)(jnp.array([1.0, 2.0])))


@vi.objective
def with_an_infinite_cost(p):
    b = ppl.sample("b", dist.Bernoulli(p), grad=vi.enumerate())
    return jnp.where(b == 1, -jnp.inf, p**2)


CASES = {
    "coins": (coins, mean_of_coins, [0.0, 0.3, 1.0]),
    "die": (die, lambda p: p + 5 * (0.5 - p) + 1.0, [0.0, 0.2, 0.5]),
    "lanes": (lanes, lambda p: (1 + p) * (1 + 2 * p), [0.0, 0.4, 1.0]),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_derivative_are_exact_up_to_the_boundary(name):
    objective, mean, points = CASES[name]
    for p in points:
        value, slope = objective.value_and_grad(0, p)
        np.testing.assert_allclose(value, mean(p), atol=1e-5)
        np.testing.assert_allclose(slope, jax.grad(mean)(p), atol=1e-5)


def test_an_impossible_value_of_infinite_cost_counts_for_nothing():
    value, _ = with_an_infinite_cost.value_and_grad(0, 0.0)
    assert value == 0.0
    assert with_an_infinite_cost.value(0, 0.5) == -jnp.inf
