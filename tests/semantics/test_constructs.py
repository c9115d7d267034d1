"""Sites inside nested `jit`, `checkpoint` and custom derivatives; helpers are not reused in a wrong scope."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.errors import DuplicateAddressError, UnsupportedPrimitiveError, VmapError
from tests.semantics.coherence import coherent, normal


def _site(x):
    """One choice and one factor; what every construct below is put around."""
    ppl.factor("f", -0.25 * x)
    return ppl.sample("z", dist.Normal(x, 0.5))


in_jit = jax.jit(_site)
in_checkpoint = jax.checkpoint(_site)
in_custom_jvp = jax.custom_jvp(_site)
in_custom_jvp.defjvp(lambda primals, tangents: (in_custom_jvp(*primals), tangents[0]))
in_custom_vjp = jax.custom_vjp(_site)
in_custom_vjp.defvjp(lambda x: (in_custom_vjp(x), None), lambda _, g: (g,))


def _step(carry, _):
    return carry, _site(carry)


def in_scan(x):
    """The body is a module-level function, so that JAX's cache of traced bodies could be asked for it again."""
    return lax.scan(_step, x, None, length=1)[1][0]


def _constant(x):
    return x


def in_cond(x):
    """Branches are module-level functions too."""
    return lax.cond(True, _site, _constant, x)


def in_lanes(x):
    """One lane."""
    return ppl.vmap(_site, in_axes=None, axis_size=1)(x)[0]


CONSTRUCTS = {
    "plain": _site,
    "jit": in_jit,
    "checkpoint": in_checkpoint,
    "custom_jvp": in_custom_jvp,
    "custom_vjp": in_custom_vjp,
    "scan": in_scan,
    "cond": in_cond,
    "lanes": in_lanes,
    "jit of scan of checkpoint": jax.jit(
        lambda x: lax.scan(lambda c, _: (c, in_checkpoint(c)), x, None, length=1)[1][0]
    ),
}
each_construct = pytest.mark.parametrize("construct", CONSTRUCTS.values(), ids=CONSTRUCTS)


@each_construct
def test_a_site_inside_means_what_it_means_outside(construct, key):
    @ppl.model
    def around(x):
        value = construct(x)
        ppl.sample("y", dist.Normal(value, 2.0), obs=jnp.array(1.0))
        return value

    trace = coherent(around(jnp.array(3.0)), key)
    z = trace.value
    np.testing.assert_allclose(jnp.squeeze(trace.choices["z"]), z)
    np.testing.assert_allclose(trace.log_density, normal(z, 3.0, 0.5) + normal(1.0, z, 2.0) - 0.75, rtol=1e-5)
    np.testing.assert_allclose(trace.log_weight, normal(1.0, z, 2.0) - 0.75, rtol=1e-5)
    slope = jax.grad(lambda v: around(jnp.array(3.0)).log_density({"z": v}))(trace.choices["z"])
    np.testing.assert_allclose(jnp.squeeze(slope), -(z - 3.0) / 0.25 - (z - 1.0) / 4.0, rtol=1e-4, atol=1e-5)


@each_construct
def test_a_helper_used_under_two_scopes_is_not_reused_with_the_wrong_address(construct):
    part = ppl.model(construct)

    @ppl.model
    def two():
        with ppl.plate("few", 3):
            construct(jnp.zeros(3))
        return ppl.sample("a", part(jnp.array(1.0))), ppl.sample(
            "b", ppl.model(lambda: ppl.sample("c", part(jnp.array(2.0))))()
        )

    alone = part(jnp.array(1.0))
    sites = two().sites
    assert sorted(sites) == ["a/f", "a/z", "b/c/f", "b/c/z", "f", "z"]
    assert sites["z"].shape[-1:] == (3,)
    assert sites["z"].dims[-1:] == ("few",)
    assert sites["a/z"].shape == sites["b/c/z"].shape == alone.sites["z"].shape
    assert "few" not in sites["a/z"].dims
    assert sorted(alone.sites) == ["f", "z"]


@each_construct
def test_unused_sites_are_not_optimised_away(construct, key):
    """Nobody reads the helper's value; its factor counts all the same, and so it does in a derived program."""

    @ppl.model
    def ignoring():
        construct(jnp.array(4.0))

    for program in (ignoring(), ignoring().map(lambda _: 1.0)):
        trace = program.simulate(key)
        assert set(trace.choices) == {"z"}
        assert float(trace.log_weight) == -1.0


@each_construct
def test_helper_called_twice_in_one_scope_is_a_duplicate(construct):
    @ppl.model
    def twice():
        return construct(jnp.array(0.0)) + construct(jnp.array(0.0))

    with pytest.raises(DuplicateAddressError, match="'f'.*test_constructs.py"):
        _ = twice().sites


@each_construct
@pytest.mark.parametrize("batched", [True, False])
def test_plain_vmap_is_refused_in_every_construct(construct, batched):
    @ppl.model
    def wrong(xs):
        return jax.vmap(lambda x: construct(x if batched else jnp.array(0.0)))(xs)

    with pytest.raises(VmapError, match="ppl.vmap") as caught:
        _ = wrong(jnp.zeros(5)).sites
    message = str(caught.value)
    assert "5 lanes" in message
    assert "test_constructs.py:" in message


@pytest.mark.parametrize("site", [lambda: ppl.factor("f", 1.0), lambda: ppl.deterministic("d", jnp.array(1.0))])
def test_plain_vmap_is_refused_around_factors_and_records(site):
    @ppl.model
    def wrong(xs):
        return jax.vmap(lambda x: (site(), x)[1])(xs)

    with pytest.raises(VmapError, match="test_constructs.py"):
        _ = wrong(jnp.zeros(2)).sites


def test_a_construct_that_may_run_its_body_any_number_of_times_is_refused():
    """Walking into the body once would give another measure without saying so."""

    @ppl.model
    def reduced():
        return lax.reduce(jnp.ones(3), 0.0, lambda a, b: a + _site(b), (0,))

    with pytest.raises(UnsupportedPrimitiveError, match=r"'f' at test_constructs.py:\d+ .*'reduce'[\s\S]*ppl.vmap"):
        _ = reduced().sites


@jax.jit
def with_constants(x):
    """A jitted helper that closes over an array."""
    return ppl.sample("v", dist.Normal(x + np.array([1.0, 2.0], np.float32), jnp.array([0.5, 3.0])))


def test_a_jitted_helper_may_hold_array_constants(key):
    trace = coherent(ppl.model(lambda: with_constants(jnp.array(1.0)))(), key)
    v = trace.choices["v"]
    np.testing.assert_allclose(trace.log_density, normal(v[0], 2.0, 0.5) + normal(v[1], 3.0, 3.0), rtol=1e-5)


def test_a_program_may_close_over_a_choice_of_the_program_around_it(key):
    @ppl.model
    def outer():
        z = ppl.sample("z", dist.Normal(0.0, 1.0))
        return ppl.sample("in", ppl.model(lambda: ppl.sample("x", dist.Normal(2.0 * z, 0.5)))())

    trace = coherent(outer(), key)
    z, x = trace.choices["z"], trace.choices["in/x"]
    np.testing.assert_allclose(trace.log_density, normal(z, 0.0, 1.0) + normal(x, 2 * z, 0.5), rtol=1e-5)


def test_derivatives_inside_a_model_may_pass_beside_sites(key):
    @ppl.model
    def slope():
        z = ppl.sample("z", dist.Normal(0.0, 1.0))
        return jax.grad(lambda x: x**2 * z)(3.0)

    trace = slope().simulate(key)
    np.testing.assert_allclose(trace.value, 6 * trace.choices["z"], rtol=1e-6)
