"""Resampling: agreement with a loop over exact cumulative weights, and the edges that float32 gets wrong."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.numerics.prefix import prefix_count, prefix_max, prefix_sum
from ppl.numerics.resampling import RESAMPLERS, systematic
from ppl.numerics.shares import cumulative, weights_or_uniform

SCHEMES = sorted(RESAMPLERS)
RUN = {name: jax.jit(resampler.ancestors, static_argnums=2) for name, resampler in RESAMPLERS.items()}
ALMOST_ONE = np.nextafter(np.float32(1), np.float32(0))


def noise(name, u, n):
    return jnp.broadcast_to(jnp.asarray(u, jnp.float32), RESAMPLERS[name].noise_shape(n))


def oracle(points, weights):
    """For each point of [0, 1) the first particle whose cumulative weight is above it, in float64."""
    ends = np.cumsum(np.asarray(weights, np.float64))
    return np.searchsorted(ends / ends[-1], points, side="right")


@pytest.mark.parametrize("count", [1, 16, 17, 300, 5000])
def test_prefix_sums_and_maxima(count):
    values = jnp.asarray(np.random.default_rng(count).integers(0, 9, count))
    floats = values.astype(jnp.float32)
    np.testing.assert_array_equal(prefix_sum(floats), np.cumsum(values))
    np.testing.assert_array_equal(prefix_max(floats), np.maximum.accumulate(floats))
    np.testing.assert_array_equal(prefix_count(values.astype(jnp.int32)), np.cumsum(values))


@pytest.mark.parametrize("name", ["multinomial", "stratified", "systematic"])
def test_against_a_loop(name):
    rng = np.random.default_rng(3)
    n = 37
    for _ in range(20):
        weights = rng.gamma(0.3, size=50) * (rng.random(50) < 0.7)
        u = rng.random(RESAMPLERS[name].noise_shape(n)).astype(np.float32)
        points = u if name == "multinomial" else (np.arange(n) + np.float64(u)) / n
        got = RUN[name](jnp.asarray(u), jnp.log(jnp.asarray(weights, jnp.float32)), n)
        np.testing.assert_array_equal(got, oracle(points, weights))


def test_residual_copies_whole_parts_for_certain():
    weights = np.array([0.05, 0.6, 0.0, 0.35])
    for u in (0.0, 0.3, 0.999):
        got = RUN["residual"](noise("residual", u, 10), jnp.log(jnp.asarray(weights)), 10)
        copies = np.bincount(got, minlength=4)
        assert (copies >= np.floor(10 * weights + 1e-6)).all()
        assert copies[2] == 0


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("n", [3, 5, 8])
def test_all_zero_population_is_left_alone(name, n):
    got = RUN[name](noise(name, 0.7, n), jnp.full(5, -jnp.inf), n)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, np.arange(n) % 5)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("heavy", [0, 2, 4])
@pytest.mark.parametrize("u", [0.0, 0.5, ALMOST_ONE])
def test_one_particle_with_all_the_weight(name, heavy, u):
    log_weights = jnp.where(jnp.arange(5) == heavy, -700.0, -jnp.inf)
    np.testing.assert_array_equal(RUN[name](noise(name, u, 8), log_weights, 8), heavy)


@pytest.mark.parametrize("name", ["residual", "stratified", "systematic"])
@pytest.mark.parametrize("u", [0.0, 0.3, ALMOST_ONE])
@pytest.mark.parametrize("n", [3, 7, 10, 49])
def test_equal_weights_resample_to_the_identity(name, u, n):
    got = RUN[name](noise(name, u, n), jnp.full(n, -2.3), n)
    np.testing.assert_array_equal(got, np.arange(n))


@pytest.mark.parametrize("name", SCHEMES)
def test_float32_at_1e5_stays_on_particles_with_weight(name):
    # Zero weights at the end, at the start and in between; noise up to the float32 below one, where n - u is n - 1.
    n = 100_000
    rng = np.random.default_rng(5)
    weights = rng.gamma(0.1, size=n).astype(np.float32)
    weights[rng.random(n) < 0.5] = 0.0
    weights[:7] = weights[-40:] = 0.0
    log_weights = jnp.log(jnp.asarray(weights))
    positive = weights > 0
    for u in (0.0, 1e-7, 0.5, 0.999999, 1 - 2**-23, ALMOST_ONE):
        ancestors = np.asarray(RUN[name](noise(name, u, n), log_weights, n))
        assert ancestors.min() >= 0
        assert ancestors.max() < n - 40
        assert positive[ancestors].all()


def test_float32_at_1e5_many_uniforms_never_run_past_the_end(key):
    n = 100_000
    log_weights = jnp.log(jax.random.gamma(key, 0.5, (n,)))
    tails = 1.0 - 2.0 ** -jnp.arange(1.0, 25.0)
    last = jax.jit(jax.vmap(lambda u: jnp.max(systematic(u, log_weights, n))))(tails)
    assert int(last.max()) < n

    def careless(u):  # the mutant: ceil(n C - u), as the formula is usually written
        ends = jnp.cumsum(jnp.exp(log_weights))
        before = jnp.ceil(n * (ends / ends[-1]) - u).astype(jnp.int32)
        return jnp.cumsum(jnp.zeros(n, jnp.int32).at[before].add(1, mode="drop"))[-1]

    assert int(jax.jit(careless)(tails[-1])) >= n


@pytest.mark.parametrize("name", SCHEMES)
def test_expected_copies_over_random_noise(name, key):
    # Copies are in [0, n], with standard deviation at most sqrt(n)/2 per run: over 20,000 runs of n = 6 the mean
    # has standard error below 0.0087, and 0.05 is 5.7 of them (below 1e-7 a particle).
    weights = jnp.array([0.1, 0.45, 0.0, 0.25, 0.2])
    runs = jax.vmap(lambda k: RESAMPLERS[name].draw(k, jnp.log(weights), 6))
    ancestors = jax.jit(runs)(jax.random.split(key, 20_000))
    copies = jax.nn.one_hot(ancestors, 5).sum(axis=1).mean(axis=0)
    np.testing.assert_allclose(copies, 6 * weights, atol=0.05)
    unweighted = RESAMPLERS[name].ancestors(noise(name, 0.4, 6), jnp.zeros(5), 6)  # the mutant
    assert np.abs(np.bincount(unweighted, minlength=5) - 6 * weights).max() > 0.05


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.slow
def test_vmap_equals_a_loop(name):
    n = 6
    log_weights = jnp.log(jnp.array([[0.1, 0.4, 0.5], [0.0, 0.0, 0.0], [0.0, 1.0, 3.0]]))
    u = noise(name, 0.61, n)
    together = jax.vmap(partial(RESAMPLERS[name].ancestors, n=n), in_axes=(None, 0))(u, log_weights)
    for row, weights in zip(together, log_weights, strict=True):
        np.testing.assert_array_equal(row, RUN[name](u, weights, n))


def test_float64_agrees_with_exact_arithmetic(key):
    with jax.enable_x64(True):
        n = 1000
        log_weights = jax.random.normal(key, (n,), jnp.float64)
        for u in (0.0, 0.123456789, 1 - 2**-53):
            got = RUN["systematic"](jnp.asarray(u, jnp.float64), log_weights, n)
            points = (np.arange(n) + np.longdouble(u)) / n
            ends = np.cumsum(np.exp(np.asarray(log_weights)), dtype=np.longdouble)
            expected = np.searchsorted(ends / ends[-1], points, side="right")
            np.testing.assert_array_equal(got, np.minimum(expected, n - 1))


def test_two_part_sums_agree_with_float64_at_1e6(key):
    """Zeros, and one particle of a tenth of the mass, whose own rounding moves all others by a few thousandths."""
    n, u = 1_000_000, np.float32(0.3)
    log_weights = jax.random.normal(key, (n,)).at[::7].set(-jnp.inf).at[n // 3].set(np.log(n / 7))
    weights = np.asarray(weights_or_uniform(log_weights), np.float64)
    exact = np.searchsorted(np.cumsum(weights) / weights.sum() * n, np.arange(n) + np.float64(u), side="right")
    got = np.asarray(RUN["systematic"](jnp.asarray(u), log_weights, n))
    assert (weights[got] > 0).all()
    assert np.mean(got != exact) < 5e-3
    plain = jax.jit(lambda w: cumulative(jnp.exp(w)) * n)(log_weights)  # the mutant
    careless = np.searchsorted(np.asarray(plain), np.arange(n, dtype=np.float32) + u, side="right")
    assert np.mean(careless != exact) > 5e-3


def test_equal_weights_resample_to_the_identity_above_1e5():
    n = 300_001
    np.testing.assert_array_equal(RUN["systematic"](jnp.float32(0.4), jnp.full(n, -2.3), n), np.arange(n))
