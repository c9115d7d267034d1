"""Nested expectations: where they may stand, and unbiased powers and exponentials of them."""

import jax.numpy as jnp
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl import vi
from ppl.errors import LawViolation, StrategyError
from ppl.testing import check_estimator


@vi.objective
def inner(p, x):
    return x * ppl.sample("b", dist.Bernoulli(p), grad=vi.score(0.25))


def estimate(p, address="e"):
    return vi.expect(address, inner(p, jnp.array(1.5)))


REFUSED = {
    "a logarithm": lambda p: jnp.log(estimate(p)),
    "a square": lambda p: estimate(p) ** 2,
    "a product with itself": lambda p: (lambda e: e * e)(estimate(p)),
    "a comparison": lambda p: jnp.where(estimate(p) > 0.5, p, 2.0 * p),
    "a choice behind it": lambda p: ppl.sample("z", dist.Normal(estimate(p), 1.0)),
    "a divisor": lambda p: p / estimate(p),
    "a power in a loop": lambda p: (lambda e: lax.scan(lambda c, _: (c * e, None), 1.0, None, length=3)[0])(
        estimate(p)
    ),
}

ALLOWED = {
    "linear": lambda p: 3.0 * estimate(p) / p - 1.0,
    "a product": lambda p: estimate(p) * estimate(p, "f"),
    "lanes": lambda p: ppl.vmap(lambda x: vi.expect("e", inner(p, x)))(jnp.array([1.0, 2.0])).mean(),
    "a product in a loop": lambda p: lax.scan(
        lambda c, x: (c * vi.expect("e", inner(p, x)), None), 1.0, jnp.array([1.0, 2.0])
    )[0],
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_estimate_that_does_not_enter_linearly_is_refused(name):
    with pytest.raises(StrategyError, match=r"(?s)'e' \(test_expectation.py:\d+\) does not enter.*exp_expect"):
        vi.objective(REFUSED[name]).value(0, 0.25)


@pytest.mark.parametrize("name", ALLOWED)
def test_an_estimate_may_enter_linearly_or_beside_others(name):
    assert jnp.isfinite(vi.objective(ALLOWED[name]).value(0, 0.25))


def exponential(p, program=inner):
    return vi.exp_expect("e", program(p, jnp.array(1.5)), 4, rate=1.5)


def power(p):
    return vi.power_expect("e", inner(p, jnp.array(1.5)), 3)


def exact(p):
    return jnp.exp(1.5 * p)


def test_exponentials_and_powers_are_unbiased(key):
    check_estimator(vi.objective(exponential), 0.25, key=key, exact=exact)
    check_estimator(vi.objective(power), 0.25, key=key, exact=lambda p: (1.5 * p) ** 3)


def test_the_exponential_of_one_estimate_dies(key):
    def plain(p):
        return jnp.exp(1.5 * ppl.sample("b", dist.Bernoulli(p), grad=vi.score()))

    noisy = vi.objective(lambda p: plain(p) + 0.0 * ppl.sample("z", dist.Normal(0.0, 1.0)))
    with pytest.raises(LawViolation, match="biased"):
        check_estimator(noisy, 0.25, key=key, exact=exact)
