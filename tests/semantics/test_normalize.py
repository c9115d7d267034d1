"""Normalised programs: mass one, the program's ratios, exact draws, usable inside another program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist


@ppl.model
def two_coins(log_weights):
    a = ppl.sample("a", dist.Bernoulli(0.25))
    b = jax.lax.cond(a == 1, lambda: ppl.sample("b", dist.Bernoulli(0.75)), lambda: 0)
    ppl.factor("w", log_weights[a + b])
    return 2 * a + b


@pytest.fixture
def program():
    return two_coins(jnp.log(jnp.array([0.5, 0.25, 1.0])))


def test_normalised_is_the_enumerated_posterior(program):
    exact = program.enumerate().normalize()
    normal = program.normalize(ppl.Exact())
    assert float(normal.enumerate().mass) == pytest.approx(1.0, abs=1e-6)
    assert ppl.meaning(normal).distance(ppl.meaning(exact)) < 1e-6
    assert float(program.enumerate().mass) < 0.7, "the mutant that forgets to divide would pass"


def test_density_is_the_ratio_to_the_mass(program):
    choices = {"a": jnp.array(1), "b": jnp.array(1)}
    expected = program.log_density(choices) - program.enumerate().log_mass
    assert float(program.normalize().log_density(choices)) == pytest.approx(float(expected), abs=1e-5)


def test_draws_follow_it_with_weight_one(program):
    """Binomial test of three frequencies at 5.5 standard errors: false alarm about 1e-7."""
    normal, count = program.normalize(), 4000
    traces = jax.vmap(normal.simulate)(jax.random.split(jax.random.key(0), count))
    np.testing.assert_allclose(traces.log_weight, 0.0, atol=1e-5)
    exact = dict(zip(*(np.asarray(x).tolist() for x in _merged(program)), strict=True))
    for value, mass in exact.items():
        frequency = float(jnp.mean(traces.value == value))
        assert abs(frequency - mass) < 5.5 * np.sqrt(mass * (1 - mass) / count)


def test_sampled_inside_another_program(program):
    @ppl.model
    def outer(inner):
        return ppl.sample("part", inner)

    found = outer(program.normalize()).enumerate()
    assert list(found.choices) == ["part/a", "part/b"]
    assert ppl.meaning(outer(program.normalize())).distance(ppl.meaning(program.enumerate().normalize())) < 1e-6


def _merged(program):
    merged = program.enumerate().normalize().merged()
    return merged.values, np.exp(merged.log_weights)
