"""Baselines: what is remembered, what is learned, and what is refused."""

import jax
import jax.numpy as jnp
import pytest

import ppl
import ppl.distributions as dist
from ppl import vi
from ppl.errors import StrategyError


def with_strategy(strategy, maximize=False):
    @vi.objective(maximize=maximize)
    def cost(p, offset):
        return offset + 2.0 * ppl.sample("b", dist.Bernoulli(p), grad=strategy)

    return cost


def test_a_moving_average_is_debiased_and_passes_over_what_is_not_finite():
    average = vi.moving_average(0.75)
    state = average.after(average.after(average.start(), 3.0), 7.0)
    state = average.after(state, jnp.nan)
    assert jnp.allclose(state.total / state.weight, (0.75 * 3.0 + 7.0) / 1.75)


def test_memory_holds_the_costs_seen():
    cost = with_strategy(vi.score(vi.moving_average(0.5)))
    memory = cost.memory(0.25, 1.0)
    assert list(memory) == ["b"]
    first = cost.evaluate(0, 0.25, 1.0, memory=memory)
    second = cost.evaluate(1, 0.25, 1.0, memory=first.memory)
    wanted = (0.5 * first.value + second.value) / 1.5
    assert jnp.allclose(second.memory["b"].total / second.memory["b"].weight, wanted, rtol=1e-5)


@pytest.mark.parametrize("maximize", [True, False])
def test_a_learned_baseline_is_regressed_whatever_the_direction(maximize):
    @vi.objective(maximize=maximize)
    def cost(params):
        coin = vi.baseline(dist.Bernoulli(params["p"]), params["b"])
        return 2.0 * ppl.sample("z", coin, grad=vi.score())

    params = {"p": jnp.array(0.25), "b": jnp.array(2.0)}
    grads = jax.grad(cost.expect)(params)
    downhill = 2.0 - 2.0 * 0.25  # d/db of E[(cost - b)^2] / 2
    assert jnp.allclose(grads["p"], 2.0, rtol=1e-5)
    assert jnp.allclose(grads["b"], -downhill if maximize else downhill, rtol=1e-5)


def test_leave_one_out_varies_less_than_copies_without_a_baseline(key):
    def variance(strategy):
        cost = with_strategy(strategy)
        return jnp.var(jax.vmap(lambda k: cost.grad(k, 0.25, 10.0))(jax.random.split(key, 500)))

    assert variance(vi.score(vi.leave_one_out(), copies=4)) < 0.05 * variance(vi.score(copies=4))


def test_what_is_refused():
    with pytest.raises(StrategyError, match="copies=1"):
        vi.score(vi.leave_one_out())
    with pytest.raises(StrategyError, match=r"\[0, 1\)"):
        vi.moving_average(1.0)
    with pytest.raises(StrategyError, match="batch shape"):
        vi.baseline(dist.Bernoulli(0.5), jnp.zeros(3))
    nested = with_strategy(vi.score(vi.moving_average(0.5)))
    with pytest.raises(StrategyError, match=r"'b' \(test_score.py:\d+\).*vi.expect"):
        vi.objective(lambda p: vi.expect("e", nested(p, jnp.array(1.0)))).value(0, 0.25)
