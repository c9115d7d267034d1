"""Slice sampling: bounded loops, exact one-dimensional pieces, NaN, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import MeasureError
from ppl.inference.kernels import State
from ppl.inference.slice_sampling import MOST_SHRINKS, on_line, slice_sampling


def flat_between(low, high):
    return lambda t: jnp.where((t >= low) & (t <= high), 0.0, -jnp.inf)


def test_on_a_flat_density_points_stay_inside_and_spread(key):
    density = flat_between(-0.6, 2.5)
    found, count = jax.jit(jax.vmap(lambda k: on_line(k, density, 0.0, 8)))(jax.random.split(key, 4000))
    points = np.asarray(found.point)
    assert points.min() >= -0.6
    assert points.max() <= 2.5
    assert points.min() < -0.55
    assert points.max() > 2.4
    assert (np.asarray(found.low) <= 0).all()
    assert (np.asarray(found.high) >= 0).all()
    assert np.asarray(count).max() <= 8 + 2 + MOST_SHRINKS


@pytest.mark.parametrize("most", [1, 2, 5])
def test_the_interval_grows_to_the_limit_and_no_further(most, key):
    found, _ = jax.jit(jax.vmap(lambda k: on_line(k, lambda t: 0.0 * t, 0.0, most)))(jax.random.split(key, 400))
    widths = np.asarray(found.high - found.low)
    np.testing.assert_allclose(widths, most, atol=1e-5)  # a density without end: every step is taken
    assert np.asarray(found.tried).max() == 1
    shares = np.floor(-np.asarray(found.low)).astype(int)
    assert set(shares) == set(range(most))  # the split between the ends is random


def test_where_nothing_is_found_the_state_stays(key):
    lonely = jax.jit(lambda k: on_line(k, lambda t: jnp.where(t == 0.0, 0.0, -jnp.inf), 0.0, 4)[0])
    found = lonely(key)
    assert float(found.point) == 0.0
    assert float(found.log_density) == 0.0
    assert int(found.tried) <= MOST_SHRINKS


def test_nan_is_outside_the_slice(key):
    @ppl.model
    def root():
        x = ppl.sample("x", dist.Normal(1.0, 0.5))
        ppl.factor("root", jnp.sqrt(x - 1.0))

    step = slice_sampling(2.0)(root())(State({"x": jnp.array(1.2)}, {}))
    runs = jax.vmap(lambda k: step.simulate(k))(jax.random.split(key, 100))
    assert (np.asarray(runs.value.choices["x"]) >= 1.0).all()
    assert np.asarray(runs.deterministic["accepted"]).all()
    assert np.isfinite(np.asarray(runs.deterministic["log_density"])).all()


def test_refusals():
    with pytest.raises(ValueError, match="width is 0"):
        slice_sampling(0.0)
    with pytest.raises(ValueError, match="max_steps_out is 0"):
        slice_sampling(max_steps_out=0)
    with pytest.raises(ValueError, match="direction is 'up'"):
        slice_sampling(direction="up")

    @ppl.model
    def coin():
        ppl.sample("c", dist.Bernoulli(0.5))

    with pytest.raises(MeasureError, match="'c'"):
        slice_sampling()(coin())
