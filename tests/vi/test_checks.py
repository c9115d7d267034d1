"""The static check: what it must find, with lines, and what it must leave alone."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from numpyro.distributions import constraints

import ppl
import ppl.distributions as dist
from ppl import vi
from ppl.errors import StrategyError
from ppl.vi.supports import refuse_unnested, region


def message(function):
    """What the check says of a function of one parameter; empty where it says nothing."""
    try:
        vi.check(vi.objective(function), 0.3)
    except StrategyError as error:
        return str(error)
    return ""


def normal(mean, grad=None):
    return ppl.sample("x", dist.Normal(mean, 1.0), grad=grad)


def three(mean):
    return ppl.sample("x", dist.Normal(mean, 1.0).expand([3]))


def in_scan(mean):
    return lax.scan(lambda c, x: (c + jnp.where(x < 0.5, 1.0, 0.0), None), 0.0, three(mean))[0]


def in_while(mean):
    x = normal(mean)
    return lax.while_loop(lambda c: c < x, lambda c: c + 1.0, 0.0)


JUMPS = {
    "comparison": lambda m: jnp.where(normal(m) > 0, 1.0, 0.0),
    "floor": lambda m: jnp.floor(normal(m)),
    "remainder": lambda m: normal(m) % 2.0,
    "round": lambda m: jax.jit(lambda x: jnp.round(x))(normal(m)),
    "cast": lambda m: normal(m).astype(int) * 1.0,
    "sign": lambda m: jnp.sign(normal(m)),
    "argmax": lambda m: jnp.argmax(three(m)) * 1.0,
    "argsort": lambda m: jnp.argsort(three(m))[0] * 1.0,
    "floor_divide": lambda m: (ppl.vmap(lambda x: x // 1)(three(m))).sum(),
    "in a branch": lambda m: lax.cond(normal(m) > 0, lambda: 1.0, lambda: 0.0),
    "in a scan": in_scan,
    "in a while": in_while,
    "of noise and a parameter": lambda m: jnp.where(normal(0.0) > m, 1.0, 0.0),
    "of a scored choice and a parameter": lambda m: jnp.where(normal(0.0, vi.score()) > m, 1.0, 0.0),
}


@pytest.mark.parametrize("name", JUMPS)
def test_jumps_are_found(name):
    said = message(JUMPS[name])
    assert "'x' (test_checks.py:" in said
    assert "Fix:" in said


SMOOTH = {
    "unused": lambda m: [x := normal(m), x > 0][0],
    "a scored choice": lambda m: jnp.where(normal(m, vi.score()) > 0, 1.0, 0.0),
    "the user's word": lambda m: jnp.where(normal(m, vi.reparam(smooth=True)) > 0, 1.0, 0.0),
    "noise alone": lambda m: m * jnp.where(normal(0.0) > 0, 1.0, 0.0),
    "a discrete choice": lambda m: jnp.where(ppl.sample("z", dist.Categorical(jnp.ones(3) / 3)) > 1, m, 0.0),
    "equality": lambda m: jnp.where(normal(m) == 0.0, 1.0, 0.0),
    "densities": lambda m: dist.Uniform(0.0, 1.0).log_prob(normal(m)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_no_alarm(name):
    assert message(SMOOTH[name]) == ""


def test_no_alarm_for_continuous_functions_of_libraries():
    def cost(mean):
        x = three(mean)
        sums = jax.nn.elu(x) + jax.nn.relu(x) + jnp.clip(x, 0.0, 1.0) + jnp.abs(x) + jnp.sort(x) + jnp.maximum(x, 0)
        return sums.sum() + jax.scipy.special.logsumexp(x)

    assert message(cost) == ""


def test_lines_of_programs_that_are_simulated_and_scored():
    @ppl.model
    def guide(mean):
        x = ppl.sample("x", dist.Normal(mean, 1.0))
        ppl.sample("y", dist.Normal(jnp.where(x > 0, 1.0, -1.0), 1.0))

    @ppl.model
    def model():
        x = ppl.sample("x", dist.Normal(0.0, 1.0))
        ppl.sample("y", dist.Normal(jnp.floor(x), 1.0))

    said = _said(vi.elbo(model(), guide))
    assert "jnp.where(x > 0, 1.0, -1.0)" in said
    assert "jnp.floor(x)" in said


def _said(objective):
    with pytest.raises(StrategyError) as caught:
        objective.grad(0, 0.3)  # the check runs by itself
    return str(caught.value)


def test_what_it_finds_is_biased():
    """The alarm is about a real bias: d/dm P(x > 0) is a density, and the pathwise derivative is zero."""

    def cost(mean):
        return jnp.where(normal(mean, vi.reparam(smooth=True)) > 0, 1.0, 0.0)

    assert float(vi.objective(cost).grad(0, 0.3)) == 0.0


def test_moving_supports_under_score():
    moving = message(lambda m: ppl.sample("u", dist.Uniform(0.0, m), grad=vi.score()))
    assert "the support of 'u' moves" in moving
    assert message(lambda m: ppl.sample("u", dist.Uniform(0.0, m), grad=vi.reparam())) == ""
    assert message(lambda m: ppl.sample("u", dist.Uniform(0.0, 2.0), grad=vi.score()) * m) == ""


def test_moving_support_by_an_earlier_choice():
    def cost(mean):
        return ppl.sample("u", dist.Uniform(0.0, jnp.exp(normal(mean))), grad=vi.score())

    assert "'u'" in message(cost)


@ppl.model
def model():
    ppl.sample("scale", dist.HalfNormal(1.0))
    ppl.sample("p", dist.Uniform(0.0, 2.0))
    ppl.sample("k", dist.Categorical(jnp.ones(3) / 3))


@ppl.model
def guide(low, probs):
    ppl.sample("scale", dist.Normal(0.0, 1.0) if low else dist.LogNormal(0.0, 1.0))
    ppl.sample("p", dist.Beta(1.0, 2.0))
    ppl.sample("k", dist.Categorical(probs))


def test_nested_supports():
    assert refuse_unnested(guide(low=False, probs=jnp.ones(3) / 3), model()) is None
    with pytest.raises(StrategyError, match=r"'scale': the real line in the guide \(test_checks.py:"):
        refuse_unnested(guide(low=True, probs=jnp.ones(3) / 3), model())
    with pytest.raises(StrategyError, match="'k': the integers from 0 to 3 in the guide"):
        refuse_unnested(guide(low=False, probs=jnp.ones(4) / 4), model())
    with pytest.raises(StrategyError, match="'p': the interval from 0 to 1 in the guide"):
        refuse_unnested(guide(low=False, probs=jnp.ones(3) / 3), model(), "model in guide")


def test_missing_and_extra_addresses():
    @ppl.model
    def other():
        ppl.sample("scale", dist.HalfNormal(1.0))
        ppl.sample("more", dist.Normal(0.0, 1.0))

    with pytest.raises(StrategyError) as caught:
        refuse_unnested(other(), model())
    assert "'p' is a choice of the model" in str(caught.value)
    assert "'more' is a choice of the guide" in str(caught.value)


def test_regions():
    assert region(constraints.real_vector).kind == "line"
    assert region(constraints.boolean).high == 1
    assert region(constraints.simplex).kind == "thin"
    assert region(None) is None
