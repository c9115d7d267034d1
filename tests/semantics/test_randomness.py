"""Randomness by address: laws 35 (vmap is a loop), 36 (jit is eager) and 37 (draws ignore their neighbours)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from tests.semantics.coherence import flat_leaves, same_choices


def _walk():
    return lax.scan(lambda c, _: (ppl.sample("path", dist.Normal(c, 1.0)),) * 2, 0.0, None, length=3)[1]


def _lanes():
    return ppl.vmap(lambda: ppl.sample("lanes", dist.Gamma(2.0, 1.0)), axis_size=4)()


def _plate():
    with ppl.plate("n", 5, subsample_size=2):
        return ppl.sample("plated", dist.Normal(0.0, 1.0))


def _branch():
    return lax.cond(True, lambda: ppl.sample("branch", dist.Normal(5.0, 1.0)), lambda: 0.0)


def _sub():
    return ppl.sample("sub", ppl.model(lambda: ppl.sample("x", dist.Normal(0.0, 1.0)))())


PARTS = {"walk": _walk, "lanes": _lanes, "plate": _plate, "branch": _branch, "sub": _sub}


@ppl.model
def assembled(order, jit=False):
    """The parts in some order, each perhaps under a `jit` of its own."""
    for name in order:
        (jax.jit(PARTS[name]) if jit else PARTS[name])()


FORWARD = tuple(PARTS)
REFERENCE_ADDRESSES = {"path", "lanes", "n", "plated", "branch", "sub/x"}


@pytest.mark.slow
def test_order_jit_and_other_sites_leave_draws_as_they_were(key):
    """Law 37, bit for bit: reordered and jitted part by part, beside another plate, loop and factor, or alone."""

    @ppl.model
    def crowded():
        ppl.sample("before", dist.Normal(0.0, 1.0))
        with ppl.plate("other", 3):
            ppl.sample("more", dist.Normal(0.0, 1.0))
        for part in PARTS.values():
            part()
        ppl.factor("weight", -1.0)
        lax.scan(lambda c, _: (c, ppl.sample("after", dist.Normal(c, 1.0))), 0.0, None, length=2)

    reference = assembled(FORWARD).simulate(key)
    assert set(reference.choices) == REFERENCE_ADDRESSES
    others = [assembled(FORWARD[::-1], jit=True), crowded(), assembled(("sub", "walk"))]
    assert all(same_choices(program.simulate(key), reference) for program in others)


def test_different_addresses_indices_and_keys_give_different_draws(key):
    """The counterpart: what must differ does."""
    one = assembled(FORWARD).simulate(key)
    other = assembled(FORWARD).simulate(jax.random.fold_in(key, 1))
    for address in ("path", "lanes", "plated", "sub/x"):
        assert not np.array_equal(one.choices[address], other.choices[address])
    assert len(np.unique(np.concatenate([one.choices["path"], one.choices["sub/x"][None]]))) == 4


def test_derived_programs_draw_the_same(key):
    reference = assembled(FORWARD).simulate(key)
    program = assembled(FORWARD)
    derived = [
        program.map(lambda _: 0.0).condition({"sub/x": jnp.array(2.0)}),
        program.intervene({"path": jnp.zeros(3)}).substitute({"lanes": jnp.ones(4)}),
    ]
    assert all(same_choices(each.simulate(key), reference) for each in derived)


def test_vmap_over_keys_is_a_loop_over_keys(key):
    """Law 35: bitwise for draws; densities are sums, whose order may differ under vmap."""
    program, keys = assembled(FORWARD), jax.random.split(key, 3)
    batch = jax.vmap(program.simulate)(keys)
    for i in range(3):
        one = program.simulate(keys[i])
        assert set(one.choices) == set(batch.choices)
        for address, value in one.choices.items():
            np.testing.assert_array_equal(batch.choices[address][i], value)
        np.testing.assert_allclose(batch.log_density[i], one.log_density, rtol=1e-5)


@ppl.model
def constructs(y, flag):
    """Control flow of every kind, with randomness in it, small enough to run op by op."""
    mu = ppl.sample("mu", dist.Normal(0.0, 1.0))
    path = lax.scan(lambda c, _: (ppl.sample("path", dist.Normal(c, 0.5)),) * 2, mu, None, length=2)[1]
    pick = lax.cond(flag, lambda: ppl.sample("pick", dist.Normal(5.0, 1.0)), lambda: mu)
    lanes = ppl.vmap(lambda m: ppl.sample("lanes", dist.Normal(m, 1.0)))(path)
    ppl.sample("y", dist.Normal(pick + lanes, 2.0), obs=y)
    return jax.jit(jnp.sum)(lanes)


@pytest.mark.parametrize("staged_first", [True, False])
def test_jit_equals_eager(staged_first, key):
    """Law 36, with `jax.disable_jit` as the eager side, whether the program was traced before or under it."""
    program = constructs(jnp.array([0.5, -1.0]), jnp.array(staged_first))
    if staged_first:
        _ = program.sites
    with jax.disable_jit():
        eager = program.simulate(key)
        density = program.log_density(eager.choices)
    compiled = program.simulate(key)
    assert set(compiled.choices) == {"mu", "path", "pick", "lanes"}
    for left, right in zip(flat_leaves(compiled.recorded), flat_leaves(eager.recorded), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(density, compiled.log_density, rtol=1e-5)
    np.testing.assert_allclose(eager.value, compiled.value, rtol=1e-5)


def test_a_jitted_simulate_equals_the_plain_one(key):
    program = constructs(jnp.array([0.5, -1.0]), jnp.array(True))
    inside = jax.jit(lambda program, key: program.simulate(key))(program, key)
    outside = program.simulate(key)
    assert same_choices(inside, outside)


def test_keys_of_every_kind_are_accepted():
    program = assembled(("lanes", "sub"))
    typed = program.simulate(jax.random.key(7))
    for other in (7, np.int64(7), jnp.array(7), jax.random.PRNGKey(7)):
        assert same_choices(program.simulate(other), typed)
    assert program.sample(jax.random.key(7, impl="rbg")) is None


def test_sample_shape_is_a_batch_of_independent_runs(key):
    program = ppl.model(lambda: ppl.sample("x", dist.Normal(0.0, 1.0)))()
    draws = jax.jit(lambda key: program.sample(key, (2, 3)))(key)
    assert draws.shape == (2, 3)
    assert len(np.unique(draws)) == 6
