"""Loops scored side by side: the same number and gradient as step by step, and only where the steps are independent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.semantics import interpreter
from ppl.semantics.handlers import Density, Terms
from ppl.semantics.markov import shifted

XS = [0.3, -0.5, 1.2, 0.8, -0.1]


class Stepwise(Density):
    """The joint density, loops taken step by step."""

    scores_given = False


class StepwiseTerms(Terms):
    """The terms, loops taken step by step."""

    scores_given = False


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def normal(name, mean, scale=1.0, obs=None):
    return ppl.sample(name, dist.Normal(mean, scale), obs=obs)


def walk(scale, xs, reverse):
    """Forward and backward differ: the input shifts each step, the start is not zero."""

    def step(state, x):
        state = normal("x", 0.9 * state + x, scale)
        normal("y", state, 0.5, obs=x)
        return state, 2 * state

    last, out = lax.scan(step, jnp.asarray(0.4), xs, reverse=reverse)
    ppl.factor("end", -(last**2) + out[1] * out[-1])


def forward(scale, xs):
    walk(scale, xs, reverse=False)


def backward(scale, xs):
    walk(scale, xs, reverse=True)


def tuple_carry(scale, xs):
    """Two carried values, one a function of the choice and of the input."""

    def step(state, x):
        before, moved = state
        z = normal("x", 0.5 * before - 0.3 * moved, scale)
        return (z, z * x), None

    (z, moved), _ = lax.scan(step, (jnp.asarray(0.4), jnp.asarray(-0.2)), xs)
    ppl.factor("end", z * moved)


def observed_carry(scale, xs):
    """An autoregression: the carried value is data."""

    def step(before, x):
        normal("y", scale * before, 1.0, obs=x)
        return x, normal("x", before, scale)

    lax.scan(step, jnp.asarray(0.4), xs)


def nested(scale, xs):
    def outer(state, x):
        z = normal("z", state + x, scale)

        def inner(state, x):
            state = normal("x", 0.5 * state - x, scale)
            return state, None

        lax.scan(inner, z, x * jnp.arange(1.0, 4.0), reverse=True)
        return z, None

    lax.scan(outer, jnp.asarray(0.4), xs)


def lanes_inside(scale, xs):
    """Settled by the choices, but lanes are not looked into: step by step is right, too."""

    def step(state, x):
        z = ppl.vmap(lambda m: normal("x", m + x, scale))(state)
        return z, None

    lax.scan(step, jnp.asarray([0.4, 1.4]), xs)


def second_order(scale, xs):
    """The older state is the younger one of the step before: not settled by this step's choices."""

    def step(state, x):
        old, young = state
        z = normal("x", 0.5 * young + 0.3 * old + x, scale)
        return (young, z), None

    lax.scan(step, (jnp.asarray(0.1), jnp.asarray(0.4)), xs)


def running_sum(scale, xs):
    def step(total, x):
        return total + normal("x", 0.3 * total + x, scale), None

    lax.scan(step, jnp.asarray(0.4), xs)


def branching(scale, xs):
    """The square root's gradient is not finite where the branch is not taken."""

    def step(state, x):
        spread = lax.cond(x > 0, lambda: jnp.sqrt(jnp.where(x > 0, x, 0.0)), lambda: 1.0)
        return normal("x", 0.5 * state, scale * spread), None

    lax.scan(step, jnp.asarray(0.4), xs)


def branch_with_a_site(scale, xs):
    def step(state, x):
        z = normal("x", 0.5 * state, scale)
        lax.cond(x > 0, lambda: normal("u", z, 1.0), lambda: z)
        return z, None

    lax.scan(step, jnp.asarray(0.4), xs)


FAST = {f.__name__: f for f in (forward, backward, tuple_carry, observed_carry, nested)}
SLOW = {f.__name__: f for f in (second_order, running_sum, lanes_inside, branching, branch_with_a_site)}


def bound(name):
    """A program with values for all choices; one that nothing cached knows."""
    function = {**FAST, **SLOW}[name]

    @ppl.model
    def model(xs):
        scale = ppl.sample("scale", dist.HalfNormal(1.0))
        function(scale, xs)

    program = model(jnp.asarray(XS))
    return program, program.simulate(jax.random.key(7)).choices


def loops(program, choices):
    """How many loops the compiled density has, at any depth."""
    return str(jax.make_jaxpr(program.log_density)(choices)).count("scan[")


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_value_gradient_and_terms_are_those_of_the_sequential_loop(name):
    program, choices = bound(name)
    found = jax.jit(jax.value_and_grad(program.log_density))(choices)
    stepwise = jax.jit(jax.value_and_grad(lambda reads: program.run(Stepwise(), reads)[1].total))(choices)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12), found, stepwise)
    assert np.all(np.isfinite(jax.tree.leaves(found[1])[0]))
    terms = program.run(StepwiseTerms(), choices)[1].writes
    for group in program.terms(choices):
        for address, term in group.items():
            np.testing.assert_allclose(term, terms[address].log_density, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FAST)
def test_loops_whose_states_are_settled_are_not_loops(name):
    assert loops(*bound(name)) == 0


@pytest.mark.parametrize("name", SLOW)
def test_other_loops_stay_loops(name):
    assert loops(*bound(name)) == 1


@pytest.mark.parametrize("name", ["forward", "backward", "tuple_carry", "nested"])
def test_a_shift_in_the_wrong_direction_is_seen(name, monkeypatch):
    program, choices = bound(name)
    right = program.run(Stepwise(), choices)[1].total
    monkeypatch.setattr(
        interpreter, "shifted", lambda init, after, *, reverse: shifted(init, after, reverse=not reverse)
    )
    wrong = program.run(Density(), choices)[1].total
    assert abs(wrong - right) > 1e-3


def test_states_before_each_step():
    after = (jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([[1], [2], [3]]))
    init = (jnp.asarray(9), jnp.asarray([7]))
    found = shifted(init, after, reverse=False)
    assert [x.tolist() for x in found] == [[9.0, 1.0, 2.0], [[7], [1], [2]]]
    found = shifted(init, after, reverse=True)
    assert [x.tolist() for x in found] == [[2.0, 3.0, 9.0], [[2], [3], [7]]]
    assert found[0].dtype == after[0].dtype
