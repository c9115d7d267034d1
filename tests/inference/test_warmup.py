"""The plan of a warm-up, and what is learnt at the end of a window."""

import numpy as np
import pytest

from ppl.inference.warmup import SETTLED, default_step, initial_state, joined, learn, moved_to, window_ends, window_of
from ppl.numerics.metric import Metric
from ppl.numerics.metric_estimates import Window

DIM = 3


def metric_of(capacity=DIM, dtype=np.float32):
    zeros = np.zeros((capacity, DIM), dtype)
    return Metric(np.zeros(DIM, dtype), np.ones(DIM, dtype), zeros, np.zeros(capacity, dtype), np.int32(0))


def state_after(count):
    state = initial_state(np.zeros(DIM, np.float32))
    step = state.step._replace(
        iterations=np.float32(count), averaged=np.float32(count), log_step=np.float32(-2), log_average=np.float32(-3)
    )
    return state._replace(step=step)


@pytest.mark.parametrize("warmup", [*range(60), 100, 199, 1000, 5000])
def test_windows_lie_in_the_warm_up_and_leave_a_stretch(warmup):
    ends = window_ends(warmup)
    assert list(ends) == sorted(set(ends))
    assert (warmup < 12) == (not ends)
    if ends:
        assert ends[0] > 0
        assert ends[-1] == warmup - max(10, round(0.05 * warmup))
        lengths = np.diff([0, *ends])
        assert lengths[-1] >= 0.5 * ends[-1] or len(ends) == 1


def some_window(rng, draws=40):
    x = rng.normal(size=(draws, DIM)) * np.array([0.1, 1.0, 5.0])
    return Window(x, -x / np.array([0.01, 1.0, 25.0]))


@pytest.mark.parametrize("count", [10, SETTLED + 1])
def test_a_window_gives_a_metric_centred_at_the_chain(count, rng):
    window = some_window(rng)
    metric, state = learn(metric_of(), state_after(count), window, 2.0)
    np.testing.assert_allclose(metric.scale, [0.1, 1.0, 5.0], rtol=1e-5)
    np.testing.assert_allclose(metric.center, window.draws[-1], rtol=1e-6)
    assert not state.point.position.any()
    np.testing.assert_allclose(state.point.gradient, window.gradients[-1] * [0.1, 1.0, 5.0], rtol=1e-5)
    assert metric.scale.dtype == state.point.gradient.dtype == np.float32


def test_the_step_size_starts_anew_until_it_is_settled(rng):
    young = learn(metric_of(), state_after(SETTLED - 1), some_window(rng), 2.0)[1].step
    assert float(young.log_step) == pytest.approx(np.log(default_step(DIM)))
    assert young.iterations == 0
    old = learn(metric_of(), state_after(SETTLED), some_window(rng), 2.0)[1].step
    assert (float(old.log_step), old.iterations, old.averaged) == (-2.0, SETTLED, 0)


def stuck(rng):
    window = some_window(rng)
    return Window(np.repeat(window.draws[:4], 10, axis=0), np.repeat(window.gradients[:4], 10, axis=0))


def with_nan(rng):
    window = some_window(rng)
    gradients = window.gradients.copy()
    gradients[30, 1] = np.nan
    return Window(window.draws, gradients)


@pytest.mark.parametrize("bad", [stuck, with_nan, lambda rng: some_window(rng, 2), lambda rng: some_window(rng, 1)])
def test_an_uninformative_window_teaches_nothing(bad, rng):
    window, before = bad(rng), metric_of()
    metric, state = learn(before, state_after(10), window, 2.0)
    np.testing.assert_array_equal(metric.scale, before.scale)
    assert metric.rank == 0
    np.testing.assert_allclose(metric.center, window.draws[-1], rtol=1e-6)
    assert np.isfinite(state.point.gradient).all()


def test_a_moved_state_stands_where_it_stood(rng):
    """Windows recorded in the coordinates of a metric are in the original ones."""
    metric, _ = learn(metric_of(), state_after(10), some_window(rng), 1.0)
    position, gradient = rng.normal(size=DIM), rng.normal(size=DIM)
    moved, state = moved_to(metric, state_after(3), position, gradient)
    back = window_of(moved, position[None], state.point.gradient[None])
    np.testing.assert_allclose(back.gradients[0], gradient, rtol=1e-4)
    assert state.point.log_density == state_after(3).point.log_density
    assert joined(back, back).draws.shape == (2, DIM)
