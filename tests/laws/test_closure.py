"""Law 14: programs keep their law under jit, vmap, cond, scan and checkpoint, and as batched pytrees."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist

PROBS = jnp.array([0.25, 0.5, 0.7])


def same(left, right):
    return left.enumerate().allclose(right.enumerate(), 1e-6)


def coin(p):
    return ppl.sample("coin", dist.Bernoulli(p))


@ppl.model
def wrapped(transform, p):
    return transform(coin, p)


FORMS = {
    "plain": lambda f, p: f(p),
    "jit": lambda f, p: jax.jit(f)(p),
    "checkpoint": lambda f, p: jax.checkpoint(f)(p),
    "cond": lambda f, p: lax.cond(p > 0.5, lambda p: f(0.0 * p), f, p),
    "switch": lambda f, p: lax.switch(1, [lambda p: f(0.5 * p), f], p),
    "scan": lambda f, p: lax.scan(lambda c, q: (c, f(q)), 0, p[None])[1][0],
    "vmap": lambda f, p: ppl.vmap(f)(p[None])[0],
    "vmap of jit of scan": lambda f, p: ppl.vmap(jax.jit(partial(FORMS["scan"], f)))(p[None])[0],
}


@pytest.mark.parametrize("form", FORMS)
def test_law_14_programs_keep_their_law(form):
    assert same(wrapped(FORMS[form], jnp.array(0.25)), wrapped(FORMS["plain"], jnp.array(0.25)))


def test_law_14_a_branch_that_is_not_taken_is_killed():
    taken = wrapped(FORMS["cond"], jnp.array(0.75))
    assert not same(taken, wrapped(FORMS["plain"], jnp.array(0.75)))


def test_law_14_the_enumerated_measure_is_that_under_jit_and_vmap():
    """Programs are pytrees: a batch of programs is one batched pytree, and its measures are the measures one by one."""
    masses = jax.vmap(lambda p: wrapped(FORMS["scan"], p).enumerate().expectation(lambda x: x))(PROBS)
    np.testing.assert_allclose(masses, PROBS, rtol=1e-6)
    jitted = jax.jit(lambda program: program.enumerate().log_weights)(wrapped(FORMS["vmap"], jnp.array(0.25)))
    np.testing.assert_allclose(jnp.exp(jitted), [0.75, 0.25], rtol=1e-6)


@ppl.model
def count():
    return ppl.sample("k", dist.Binomial(2, 0.25))


@ppl.model
def flips():
    return lax.scan(lambda p, _: (0.5 * p, coin(p)), jnp.array(0.75), None, length=2)[1]


def test_law_14_pairs_of_independent_programs_are_products():
    @ppl.model
    def pair(left, right):
        return ppl.sample("left", left), ppl.sample("right", right)

    both = pair(count(), flips()).enumerate()
    left, right = count().enumerate(), flips().enumerate()
    product = ppl.FiniteMeasure(
        (left.log_weights[:, None] + right.log_weights[None, :]).reshape(-1),
        (jnp.repeat(left.values, len(right.weights)), jnp.tile(right.values, (len(left.weights), 1))),
    )
    assert both.allclose(product)
