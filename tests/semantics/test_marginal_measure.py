"""Marginals as measures: what cannot be summed out, points and draws, marginals inside other programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, EnumerationSizeError, MeasureError, NotFiniteError, UnboundedError


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def exact(program, kept):
    return program.marginal(kept, method=ppl.Exact())


# --- errors ----------------------------------------------------------------------------------------------------------


def continuous():
    a = ppl.sample("a", dist.Normal(0.0, 1.0))
    b = ppl.sample("b", dist.Bernoulli(0.3))
    ppl.sample("y", dist.Normal(a + b, 1.0), obs=jnp.asarray(0.3))


def escaping():
    zs = ppl.vmap(lambda: ppl.sample("z", dist.Bernoulli(0.3)), axis_size=3)()
    ppl.factor("f", 0.1 * zs.sum())


def handed_out():
    _, zs = lax.scan(lambda z, _: (ppl.sample("z", dist.Bernoulli(0.2 + 0.5 * z)),) * 2, jnp.asarray(0), None, length=9)
    ppl.factor("f", 0.1 * zs.sum())


def growing():
    step = lambda total, _: (total + ppl.sample("z", dist.Bernoulli(0.3)), None)
    ppl.factor("f", 0.1 * lax.scan(step, jnp.asarray(0), jnp.arange(20))[0])


def large():
    ppl.factor("f", 0.1 * ppl.sample("z", dist.Bernoulli(jnp.full(13, 0.3))).sum())


def unbounded():
    draw = lambda count: count + ppl.sample("z", dist.Bernoulli(0.3))
    ppl.factor("f", 0.1 * lax.while_loop(lambda count: count < 3, draw, jnp.asarray(0)))


@pytest.mark.parametrize(
    ("function", "error", "match"),
    [
        (continuous, NotFiniteError, "'a' at test_marginal_measure.py.*Normal"),
        (escaping, NotFiniteError, "'z'.*leaves its ppl.vmap"),
        (handed_out, NotFiniteError, "'z'.*leaves its scan"),
        (growing, NotFiniteError, "'z'.*ever more of them"),
        (large, EnumerationSizeError, r"'z' at test_marginal_measure.py.*2\^13.*\n.*ppl.vmap"),
        (unbounded, UnboundedError, "'z'.*while_loop"),
    ],
)
def test_what_cannot_be_summed_is_said(function, error, match):
    with pytest.raises(error, match=match):
        exact(ppl.model(function)(), []).log_density({})


def test_addresses_that_cannot_be_kept():
    program = ppl.model(continuous)()
    with pytest.raises(AddressError, match="Did you mean 'b'"):
        exact(program, ["a", "bb"])
    with pytest.raises(AddressError, match="'y', which is observed at test_marginal_measure.py"):
        exact(program, "y")


# --- as a measure ----------------------------------------------------------------------------------------------------


@ppl.model
def dependent():
    a = ppl.sample("a", dist.Bernoulli(0.3))
    b = ppl.sample("b", dist.Categorical(probs=jnp.asarray([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])[a]))
    return ppl.sample("c", dist.Bernoulli(0.1 + 0.2 * b + 0.3 * a))


LAW = {(0, 0): 0.448, (0, 1): 0.252, (1, 0): 0.15, (1, 1): 0.15}
"""The law of (a, c), by hand."""


def test_its_points_and_draws_have_its_density(key):
    marginal = exact(dependent(), ["a", "c"])
    points = marginal.enumerate()
    assert points.distance(dependent().enumerate().marginal(["a", "c"])) < 1e-12
    for (a, c), mass in LAW.items():
        choices = {"a": jnp.asarray(a), "c": jnp.asarray(c)}
        assert np.exp(marginal.log_density(choices)) == pytest.approx(mass, abs=1e-12)
        assert float(points.condition(choices).mass) == pytest.approx(mass, abs=1e-12)
    trace = marginal.simulate(key)
    assert trace.log_density == pytest.approx(float(marginal.log_density(trace.choices)), abs=1e-12)
    assert set(trace.choices) == set(trace.value) == {"a", "c"}


def test_marginals_of_marginals():
    nested = exact(exact(dependent(), ["a", "c"]), "c")
    np.testing.assert_allclose(nested.log_density({"c": 1}), np.log(0.402), rtol=1e-12)
    assert float(nested.enumerate().expectation(lambda c: c)) == pytest.approx(0.402)

    @ppl.model
    def outer(y):
        pair = ppl.sample("pair", exact(dependent(), ["a", "c"]))
        ppl.sample("y", dist.Normal(2.0 * pair["a"] + pair["c"], 1.0), obs=y)

    densities = {ac: dist.Normal(2.0 * ac[0] + ac[1], 1.0).log_prob(0.4) for ac in LAW}
    expected = np.log(sum(mass * np.exp(densities[ac]) for ac, mass in LAW.items()))
    found = exact(outer(jnp.asarray(0.4)), []).log_density({})
    np.testing.assert_allclose([found, outer(jnp.asarray(0.4)).enumerate().log_mass], expected, rtol=1e-12)


def test_conditioned_and_observed_in_lanes():
    c = exact(dependent(), "c")
    lanes = ppl.model(lambda ys: ppl.vmap(lambda y: ppl.sample("s", c, obs=y))(ys))
    expected = np.log(0.598) + 2 * np.log(0.402)
    np.testing.assert_allclose(lanes(jnp.asarray([0, 1, 1])).log_density({}), expected, rtol=1e-12)
    both = exact(dependent(), ["a", "c"]).condition({"a": 1, "c": 0})
    np.testing.assert_allclose(both.log_density({}), np.log(0.15), rtol=1e-12)


def test_draws_in_lanes_are_independent(key):
    """Statistical: the mean of 4,000 flips of 0.402 within 5 standard errors of 0.0078 (false alarm: 6e-7)."""
    c = exact(dependent(), "c")
    drawn = ppl.model(lambda: ppl.vmap(lambda: ppl.sample("s", c), axis_size=4000)())().sample(key)
    assert abs(float(drawn.mean()) - 0.402) < 5 * 0.0078


def test_a_weighed_program_has_no_draws_of_its_marginal(key):
    with pytest.raises(MeasureError, match="cannot be drawn from.*'y'"):
        exact(ppl.model(continuous)(), ["a", "b"]).simulate(key)
