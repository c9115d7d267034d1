"""`ppl.vmap`: the density of a loop, one independent draw a lane, and the arguments of `jax.vmap`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import ShapeError
from tests.semantics.coherence import coherent, normal

XS = jnp.arange(12.0).reshape(2, 3, 2)


def _lane(x, shift, scale=1.0):
    return ppl.sample("z", dist.Normal(jnp.sum(x) * shift, scale))


@pytest.mark.parametrize("axis", [0, 1, -1, 2, -3])
def test_any_axis_of_an_argument_may_be_mapped(axis, key):
    program = ppl.model(lambda xs: ppl.vmap(_lane, in_axes=(axis, None))(xs, jnp.array(0.5)))(XS)
    trace = coherent(program, key)
    moved = np.moveaxis(np.asarray(XS), axis, 0)
    assert trace.value.shape == (moved.shape[0],)
    np.testing.assert_allclose(trace.log_density, normal(trace.value, 0.5 * moved.sum((1, 2)), 1.0), rtol=1e-5)


def test_pytrees_keywords_and_prefixes_of_in_axes(key):
    @ppl.model
    def pytrees(point, weights):
        def lane(point, weights, *, offset):
            mean = point["a"] + jnp.sum(weights * point["b"]) + offset
            return ppl.sample("z", dist.Normal(mean, 0.5))

        return ppl.vmap(lane, in_axes=({"a": 0, "b": 1}, None))(point, weights, offset=jnp.array([10.0, 20.0]))

    point = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}
    weights = jnp.array([0.1, 0.2, 0.3])
    trace = coherent(pytrees(point, weights), key)
    mean = np.array([1.0, 2.0]) + np.asarray(weights) @ np.asarray(point["b"]) + np.array([10.0, 20.0])
    np.testing.assert_allclose(trace.log_density, normal(trace.value, mean, 0.5), rtol=1e-5)


def test_static_arguments_that_all_lanes_share_stay_python_values(key):
    @ppl.model
    def powers(xs):
        def lane(x, times, name, transform):
            return ppl.sample(name, dist.Normal(sum(transform(x) for _ in range(times)), 0.5))

        return ppl.vmap(lane, in_axes=(0, None, None, None))(xs, 3, "named", jnp.square)

    trace = powers(jnp.array([1.0, 10.0])).simulate(key)
    np.testing.assert_allclose(trace.choices["named"], [3.0, 300.0], atol=5.0)


def test_a_site_without_mapped_operands_draws_once_a_lane(key):
    @ppl.model
    def unmapped(vector):
        def lane():
            a = ppl.sample("a", dist.Normal(vector, 1.0))
            return a, ppl.sample("b", dist.Normal(0.0, 1.0))

        return ppl.vmap(lane, axis_size=4)()

    trace = coherent(unmapped(jnp.zeros(3)), key)
    assert trace.choices["a"].shape == (4, 3)
    assert len(np.unique(trace.choices["a"])) == 12
    assert len(np.unique(trace.choices["b"])) == 4


def test_unmapped_vector_parameters_with_a_mapped_scalar(key):
    @ppl.model
    def mixed(scales):
        return ppl.vmap(lambda s: ppl.sample("x", dist.Normal(jnp.array([1.0, 2.0, 3.0]), s)))(scales)

    trace = coherent(mixed(jnp.array([0.5, 5.0])), key)
    x = trace.choices["x"]
    assert x.shape == (2, 3)
    mean = [1.0, 2.0, 3.0]
    np.testing.assert_allclose(trace.log_density, normal(x[0], mean, 0.5) + normal(x[1], mean, 5.0), rtol=1e-5)


def test_vector_latents_that_share_one_scalar_noise(key):
    """One noise a lane shifts a whole vector; another system broadcasts the scalar's density over the vector."""

    @ppl.model
    def shared():
        def lane(base):
            noise = ppl.sample("noise", dist.Normal(0.0, 2.0))
            return ppl.sample("x", dist.Normal(base + noise, 0.5))

        return ppl.vmap(lane)(jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))

    trace = coherent(shared(), key)
    noise = np.asarray(trace.choices["noise"])
    assert noise.shape == (3,)
    base = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    expected = normal(noise, 0.0, 2.0) + normal(trace.choices["x"], base + noise[:, None], 0.5)
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-5)


def test_nested_lanes_around_a_scan_have_the_loop_density(key):
    @ppl.model
    def nested(mus):
        def inner(mu):
            return jax.lax.scan(lambda c, _: (ppl.sample("x", dist.Normal(c, 0.5)), c), mu, None, length=3)[0]

        return ppl.vmap(lambda row: ppl.vmap(inner)(row).sum() + ppl.sample("y", dist.Normal(0.0, 3.0)))(mus)

    mus = jnp.array([[0.0, 10.0], [20.0, 30.0], [40.0, 50.0], [60.0, 70.0]])
    trace = coherent(nested(mus), key)
    x = np.asarray(trace.choices["x"])
    assert x.shape == (4, 2, 3)
    before = np.concatenate([np.asarray(mus)[..., None], x[..., :-1]], axis=-1)
    np.testing.assert_allclose(
        trace.log_density, normal(x, before, 0.5) + normal(trace.choices["y"], 0.0, 3.0), rtol=1e-5
    )
    assert len(np.unique(x - before)) == 24


SAMPLERS = {
    "normal": lambda: dist.Normal(0.0, 1.0),
    "gamma": lambda: dist.Gamma(0.7, 1.0),
    "dirichlet": lambda: dist.Dirichlet(jnp.array([0.5, 1.0, 2.0])),
    "student": lambda: dist.StudentT(3.0, 0.0, 1.0),
    "truncated": lambda: dist.TruncatedNormal(0.0, 1.0, low=-1.0),
    "von mises": lambda: dist.VonMises(0.0, 2.0),
    "poisson": lambda: dist.Poisson(2000.0),
    "binomial": lambda: dist.Binomial(10**6, 0.3),
    "multinomial": lambda: dist.Multinomial(10**5, jnp.array([0.2, 0.8])),
    "mixture": lambda: dist.MixtureSameFamily(
        dist.Categorical(jnp.array([0.3, 0.7])), dist.Normal(jnp.array([0.0, 9.0]), 1.0)
    ),
    "lkj": lambda: dist.LKJCholesky(3, 1.0),
}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.slow
def test_every_kind_of_sampler_draws_apart_in_each_lane(sampler, key):
    """Rejection loops and samplers that split their key included; lanes of lanes too."""
    program = ppl.model(
        lambda: ppl.vmap(lambda: ppl.vmap(lambda: ppl.sample("x", sampler()), axis_size=2)(), axis_size=3)()
    )()
    with jax.numpy_rank_promotion("allow"):  # NumPyro's multinomial promotes ranks
        rows = np.asarray(program.sample(key)).reshape(6, -1)
    assert len(np.unique(rows, axis=0)) == 6


def _largest_correlation(draws):
    """The largest absolute z-score of the correlations between lanes; draws of shape (runs, lanes)."""
    correlations = np.corrcoef(draws.T)
    pairs = correlations[np.triu_indices(len(correlations), 1)]
    return np.max(np.abs(np.arctanh(np.clip(pairs, -0.999999, 0.999999)))) * math.sqrt(len(draws) - 3)


def test_nested_lanes_are_independent():
    """Statistical: 15 correlations of 6 lanes over 4,000 runs, normal after Fisher's z; two-sided Bonferroni at 1e-6.

    The threshold is the normal quantile at 1 - 1e-6 / 30: 5.39. The mutant lets all lanes share a noise of weight
    0.4, a correlation of 0.14, whose z-score is about 8.7.
    """
    threshold = 5.39

    @ppl.model
    def lanes(leak):
        def outer(common):
            return ppl.vmap(lambda: ppl.sample("x", dist.Normal(leak * common, 1.0)), axis_size=2)()

        common = ppl.sample("common", dist.Normal(0.0, 1.0))
        return ppl.vmap(outer, in_axes=None, axis_size=3)(common)

    def draws(leak):
        keys = jax.random.split(jax.random.key(20), 4000)
        return np.asarray(jax.vmap(lanes(jnp.array(leak)).sample)(keys)).reshape(4000, 6)

    independent = draws(0.0)
    assert _largest_correlation(independent) < threshold
    # The means too: 6 lanes, two-sided, Bonferroni at 1e-6: 5.23 standard errors.
    assert np.max(np.abs(independent.mean(0))) * math.sqrt(4000) < 5.23
    assert _largest_correlation(draws(0.4)) > threshold


def test_programs_are_arguments_like_any_pytree(key):
    @ppl.model
    def part(mu):
        return ppl.sample("x", dist.Normal(mu, 0.5))

    @ppl.model
    def whole(parts):
        return ppl.vmap(lambda p: ppl.sample("part", p))(parts)

    mus = jnp.array([0.0, 10.0, 20.0])
    trace = coherent(whole(jax.vmap(part)(mus)), key)
    np.testing.assert_allclose(trace.log_density, normal(trace.choices["part/x"], mus, 0.5), rtol=1e-5)


@pytest.mark.parametrize(
    ("in_axes", "axis_size", "args", "words"),
    [
        (0, None, (jnp.zeros(2), jnp.zeros(3)), r"lane counts \[2, 3\]"),
        (0, 4, (jnp.zeros(2), jnp.zeros(2)), r"lane counts \[2, 4\]"),
        (None, None, (jnp.zeros(2), jnp.zeros(2)), "give axis_size"),
        ((0, 1), None, (jnp.zeros(2), jnp.zeros(2)), r"axis 1 of an argument of shape \(2,\)"),
        ((0,), None, (jnp.zeros(2), jnp.zeros(2)), "1 entries for 2 positional arguments"),
        (({"a": 0}, 0), None, ({"b": jnp.zeros(2)}, jnp.zeros(2)), "does not fit the arguments"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(in_axes, axis_size, args, words):
    program = ppl.model(lambda *a: ppl.vmap(lambda *_: ppl.sample("z", dist.Normal(0.0, 1.0)), in_axes, axis_size)(*a))(
        *args
    )
    with pytest.raises(ShapeError, match=words) as caught:
        _ = program.sites
    assert "ppl.vmap at test_vmap.py:" in str(caught.value)
