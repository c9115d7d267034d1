"""Sites inside `cond` and `switch`: masks, addresses that branches share, choices that count for nothing (law 38)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.errors import BranchError, DuplicateAddressError
from tests.semantics.coherence import coherent, normal


@ppl.model
def mixture(pick):
    """Three branches; `shared` is a choice of the first two, `own` of the last, nothing else in common."""

    def first():
        return ppl.sample("shared", dist.Normal(-4.0, 0.5))

    def second():
        ppl.factor("bonus", 1.25)
        return ppl.sample("shared", dist.LogNormal(1.0, 0.25))

    def third():
        own = ppl.sample("own", dist.Normal(jnp.array([1.0, 2.0]), 3.0))
        return ppl.deterministic("sum", own.sum())

    value = lax.switch(pick, (first, second, third))
    return ppl.sample("y", dist.Normal(value, 2.0), obs=jnp.array(0.5))


def test_switch_scores_the_branch_taken(key):
    def expected(trace, pick):
        x, own = float(trace.choices["shared"]), np.asarray(trace.choices["own"], np.float64)
        if pick == 0:
            return normal(x, -4.0, 0.5) + normal(0.5, x, 2.0)
        if pick == 1:
            return normal(np.log(x), 1.0, 0.25) - np.log(x) + normal(0.5, x, 2.0) + 1.25
        return normal(own, [1.0, 2.0], 3.0) + normal(0.5, own.sum(), 2.0)

    for pick in range(3):
        trace = coherent(mixture(jnp.array(pick)), key)
        np.testing.assert_allclose(trace.log_density, expected(trace, pick), rtol=1e-5)
        assert {a: bool(m) for a, m in trace.masks.items()} == {"shared": pick < 2, "own": pick == 2}
        assert float(trace.terms.factor["bonus"]) == (1.25 if pick == 1 else 0.0)
    infos = mixture(jnp.array(0)).sites
    assert {a: info.masked for a, info in infos.items()} == {
        "shared": True, "bonus": True, "own": True, "sum": True, "y": False,
    }  # fmt: skip


def test_masked_values_count_for_nothing(key):
    """Law 38: bitwise the same density and a zero gradient, where the other branch's density is not finite."""
    program = mixture(jnp.array(2))
    choices = program.simulate(key).choices
    density = jax.value_and_grad(
        lambda shared, own: program.log_density({"shared": shared, "own": own}), argnums=(0, 1)
    )
    reference, (zero, slope) = density(choices["shared"], choices["own"])
    assert float(zero) == 0.0
    assert bool(jnp.all(slope != 0.0))
    for odd in (0.0, -1.0, jnp.inf, jnp.nan):
        value, (gradient, others) = density(jnp.array(odd), choices["own"])
        assert value == reference
        assert float(gradient) == 0.0
        np.testing.assert_array_equal(others, slope)


def test_masked_lanes_count_for_nothing_and_have_no_nan_gradient(key):
    """Under `ppl.vmap` both branches run and a select follows: the classic place where NaN gradients come from."""

    @ppl.model
    def lanes(on, scale):
        def lane(flag):
            return lax.cond(flag, lambda: ppl.sample("x", dist.LogNormal(0.3, scale)), lambda: 1.0)

        return ppl.vmap(lane)(on)

    on, scale = jnp.array([True, False, True]), jnp.array(0.5)
    trace = coherent(lanes(on, scale), key)
    np.testing.assert_array_equal(trace.masks["x"], on)
    x = np.asarray(trace.choices["x"], np.float64)[[0, 2]]
    np.testing.assert_allclose(trace.log_density, normal(np.log(x), 0.3, 0.5) - np.log(x).sum(), rtol=1e-5)

    density = jax.value_and_grad(lambda x, s: lanes(on, s).log_density({"x": x}), argnums=(0, 1))
    reference, (gradient, slope) = density(trace.choices["x"], scale)
    np.testing.assert_allclose(gradient[jnp.array([0, 2])], -(1 + (np.log(x) - 0.3) / 0.25) / x, rtol=1e-4)
    for odd in (0.0, -3.0, jnp.nan):
        value, (odd_gradient, odd_slope) = density(trace.choices["x"].at[1].set(odd), scale)
        assert value == reference
        assert float(odd_gradient[1]) == 0.0
        assert bool(jnp.isfinite(odd_slope))
        np.testing.assert_array_equal(odd_slope, slope)


def test_lanes_of_a_branch_draw_apart(key):
    """A batched predicate turns `cond` into a select, for which JAX copies the run's key to every lane."""

    @ppl.model
    def lanes(on):
        def lane(flag):
            return lax.cond(
                flag,
                lambda: ppl.sample("x", dist.Normal(0.0, 1.0)) + ppl.sample("g", dist.Gamma(2.0, 1.0)),
                lambda: ppl.sample("z", dist.Normal(0.0, 1.0)),
            )

        return ppl.vmap(lambda flags: ppl.vmap(lane)(flags))(on)

    trace = lanes(jnp.ones((3, 4), bool)).simulate(key)
    assert len(np.unique(trace.choices["x"])) == len(np.unique(trace.choices["g"])) == 12
    shared_flags = ppl.model(lambda on: ppl.vmap(lambda: ppl.vmap(_one_of_two)(on), axis_size=3)())
    trace = shared_flags(jnp.array([True, True])).simulate(key)
    assert len(np.unique(trace.choices["x"])) == 6


def _one_of_two(flag):
    return lax.cond(flag, lambda: ppl.sample("x", dist.Normal(0.0, 1.0)), lambda: 0.0)


def test_nested_cond_masks_only_what_ran(key):
    @ppl.model
    def nested(outer, inner):
        def deep():
            return ppl.sample("a", dist.Normal(1.0, 2.0))

        def shallow():
            return ppl.sample("b", dist.Normal(-1.0, 0.5))

        return lax.cond(
            outer, lambda: lax.cond(inner, deep, shallow) + ppl.sample("c", dist.Normal(0.0, 3.0)), lambda: 0.0
        )

    for outer in (True, False):
        for inner in (True, False):
            trace = coherent(nested(jnp.array(outer), jnp.array(inner)), key)
            masks = {address: bool(mask) for address, mask in trace.masks.items()}
            assert masks == {"a": outer and inner, "b": outer and not inner, "c": outer}
            c = trace.choices
            parts = {"a": normal(c["a"], 1.0, 2.0), "b": normal(c["b"], -1.0, 0.5), "c": normal(c["c"], 0.0, 3.0)}
            expected = sum(parts[address] for address in parts if masks[address])
            np.testing.assert_allclose(trace.log_density, expected, rtol=1e-5, atol=1e-6)


def test_cond_inside_scan_masks_step_by_step(key):
    @ppl.model
    def sometimes():
        def step(carry, index):
            value = lax.cond(index % 2 == 1, lambda: ppl.sample("x", dist.Normal(carry, 0.5)), lambda: carry + 10.0)
            return value, value

        return lax.scan(step, 1.0, jnp.arange(4))[1]

    trace = coherent(sometimes(), key)
    np.testing.assert_array_equal(trace.masks["x"], [False, True, False, True])
    x = trace.choices["x"]
    np.testing.assert_allclose(trace.log_density, normal(x[1], 11.0, 0.5) + normal(x[3], x[1] + 10.0, 0.5), rtol=1e-5)


@pytest.mark.parametrize("loop_first", [True, False])
def test_branches_may_reach_one_address_by_a_loop_and_by_a_vector(key, loop_first):
    def loop():
        def step(c, i):
            return c, lax.cond(i > 1, lambda: ppl.sample("x", dist.Normal(5.0, 1.0)), lambda: 0.0)

        return lax.scan(step, 0.0, jnp.arange(4))[1]

    branches = (loop, lambda: ppl.sample("x", dist.Normal(jnp.zeros(4), 2.0)))
    program = ppl.model(lambda which: lax.switch(which, branches if loop_first else branches[::-1]))
    for which in (0, 1):
        trace = coherent(program(jnp.array(which)), key)
        looped = (which == 0) == loop_first
        x = trace.choices["x"]
        np.testing.assert_array_equal(trace.masks["x"], [not looped, not looped, True, True])
        np.testing.assert_allclose(
            trace.log_density, normal(x[2:], 5.0, 1.0) if looped else normal(x, 0.0, 2.0), rtol=1e-5
        )


def test_an_indicator_whose_branches_score_differently_has_the_exact_posterior():
    """A published system gives .503 for a posterior that is .9526; ours, on a like program, is the exact one."""

    @ppl.model
    def indicator():
        is_first = ppl.sample("is_first", dist.Bernoulli(0.3))
        lax.cond(
            is_first == 1,
            lambda: ppl.sample("u", dist.Normal(0.0, 1.0), obs=jnp.array(0.2)),
            lambda: ppl.sample("v", dist.Normal(0.0, 1.0), obs=jnp.array(2.5)),
        )
        return is_first

    measure = indicator().enumerate()
    first, second = 0.3 * np.exp(normal(0.2, 0.0, 1.0)), 0.7 * np.exp(normal(2.5, 0.0, 1.0))
    np.testing.assert_allclose(measure.mass, first + second, rtol=1e-5)
    np.testing.assert_allclose(measure.normalize().expectation(lambda x: x), first / (first + second), rtol=1e-5)


def test_branches_that_disagree_on_an_address_are_refused():
    @ppl.model
    def shapes(flag):
        lax.cond(
            flag,
            lambda: ppl.sample("x", dist.Normal(0.0, 1.0)),
            lambda: ppl.sample("x", dist.Normal(jnp.zeros(2), 1.0))[0],
        )

    @ppl.model
    def kinds(flag):
        lax.cond(
            flag,
            lambda: ppl.sample("x", dist.Normal(0.0, 1.0), obs=jnp.array(1.0)),
            lambda: ppl.sample("x", dist.Normal(0.0, 1.0)),
        )

    for program in (shapes(jnp.array(True)), kinds(jnp.array(True))):
        with pytest.raises(BranchError, match="'x'"):
            _ = program.sites


def test_one_address_in_two_conds_is_a_duplicate():
    @ppl.model
    def twice(flag):
        for _ in range(2):
            lax.cond(flag, lambda: ppl.sample("x", dist.Normal(0.0, 1.0)), lambda: 0.0)

    with pytest.raises(DuplicateAddressError, match="'x'"):
        _ = twice(jnp.array(True)).sites
