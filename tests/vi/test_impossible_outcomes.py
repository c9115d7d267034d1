"""Outcomes without mass, whose cost is no number, do not spoil the gradient of what comes after them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl import vi

STRATEGIES = {"E": vi.enumerate(), "M": vi.measure_valued(), "S": vi.score()}
LOGITS = jnp.array([0.3, -0.2, 0.9])


@ppl.model
def model():
    going = 1.0
    for t in range(3):
        going = ppl.sample(f"going_{t}", dist.Bernoulli(0.15 * going)).astype(float)
    ppl.factor("seen", jnp.where(going > 0, 1.3, 0.0))


@ppl.model
def guide(logits):
    going = 1.0
    for t in range(3):
        going = ppl.sample(f"going_{t}", dist.Bernoulli(jax.nn.sigmoid(logits[t]) * going)).astype(float)


def objective(strategies):
    chosen = {f"going_{t}": STRATEGIES[name] for t, name in enumerate(strategies)}
    return vi.elbo(model(), lambda logits: vi.with_strategies(guide(logits), chosen))


def elbo(logits):
    """The sum over how many coins in a row come up, 0 to 3, by hand."""
    chances = jax.nn.sigmoid(logits)
    total = 0.0
    for n in range(4):
        stop, halt = (1.0, 1.0) if n == 3 else (1.0 - chances[n], 0.85)
        q, p = jnp.prod(chances[:n]) * stop, 0.15**n * halt * jnp.exp(1.3 * (n == 3))
        total += q * (jnp.log(p) - jnp.log(q))
    return total


@pytest.mark.parametrize("strategies", ["EEE", "EEM", "EES", "MMM", "SSS", "EMS"])
def test_impossible_outcomes_leave_the_gradient_right(strategies):
    value, grads = jax.value_and_grad(objective(strategies).expect)(LOGITS)
    expected, slopes = jax.value_and_grad(elbo)(LOGITS)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grads, slopes, rtol=1e-5)


def test_a_possible_outcome_of_infinite_cost_shows_in_the_value():
    @vi.objective
    def cost(p):
        return jnp.where(ppl.sample("coin", dist.Bernoulli(p), grad=vi.enumerate()), jnp.inf, p)

    assert cost.value(0, 0.3) == jnp.inf
    np.testing.assert_allclose(cost.value(0, 0.0), 0.0)
