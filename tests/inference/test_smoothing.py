"""Smoothing: fixed-lag moments and backward simulation against Kalman and an enumerated hidden Markov model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import MeasureError
from ppl.inference import backward_simulation

MEANS, VARIANCES = [0.542987, 0.605958, 0.370860], [0.170387, 0.133521, 0.150763]
"""Kalman smoothed moments: A = .8, Q = .2, R = .3, y = (.5, 1, .2) (shared/references/smc.md)."""


@ppl.model
def walk(ys):
    x0 = ppl.sample("x0", dist.Normal(0.0, 1.0))
    ppl.sample("y0", dist.Normal(x0, 0.3**0.5), obs=ys[0])

    def step(x, y):
        x = ppl.sample("x", dist.Normal(0.8 * x, 0.2**0.5))
        ppl.sample("y", dist.Normal(x, 0.3**0.5), obs=y)
        return x, None

    return jax.lax.scan(step, x0, ys[1:])[0]


@ppl.model
def hidden(ys, *, reverse):
    def step(x, y):
        x = ppl.sample("x", dist.Bernoulli(jnp.where(x == 1, 0.75, 0.125)))
        ppl.sample("y", dist.Bernoulli(jnp.where(x == 1, 0.875, 0.25)), obs=y)
        return x, None

    return jax.lax.scan(step, 1, ys, reverse=reverse)[0]


YS = jnp.array([0.5, 1.0, 0.2])
FLIPS = jnp.array([1, 0, 0, 1])


@pytest.fixture(scope="module")
def filtered():
    return ppl.infer(walk(YS), ppl.SMC(20_000, store="filter"), key=5)


@pytest.mark.slow
def test_backward_simulation_has_the_kalman_moments(filtered, key):
    """2,000 paths from 20,000 particles: five standard errors of a mean are 0.046, of a variance 0.027."""
    smoothed = backward_simulation(filtered, 2_000, key)
    x = np.concatenate([smoothed.draws["x0"][0][:, None], smoothed.draws["x"][0]], axis=1)
    np.testing.assert_allclose(x.mean(axis=0), MEANS, atol=0.05)
    np.testing.assert_allclose(x.var(axis=0), VARIANCES, atol=0.03)
    assert smoothed.log_weights is None


def law(draws):
    """Frequencies of paths of four flips."""
    codes = np.asarray(draws) @ np.array([1, 2, 4, 8])
    return np.bincount(codes, minlength=16) / len(codes)


def exact(*, reverse):
    found = hidden(FLIPS, reverse=reverse).enumerate()
    masses = np.exp(np.asarray(found.log_weights, np.float64))
    codes = np.asarray(found.choices["x"]) @ np.array([1, 2, 4, 8])
    return np.bincount(codes, weights=masses / masses.sum(), minlength=16)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.slow
def test_backward_simulation_has_the_law_of_paths(reverse, key):
    """Against enumeration, loops both ways: 16 frequencies of 4,000 paths, each within 5.5 standard errors (1e-6)."""
    posterior = ppl.infer(hidden(FLIPS, reverse=reverse), ppl.SMC(4_000, store="filter"), key=key)
    found, truth = law(backward_simulation(posterior, 4_000, key).draws["x"][0]), exact(reverse=reverse)
    assert np.abs(found - truth).max() < 5.5 * np.sqrt(truth.max() * (1 - truth.max()) / 4_000) * np.sqrt(2)
    other = exact(reverse=not reverse)
    assert np.abs(other - truth).max() > 5.5 * np.sqrt(truth.max() * (1 - truth.max()) / 4_000) * np.sqrt(2)


@pytest.mark.parametrize(("lag", "horizon"), [(1, 2), (2, 3), (7, 3)])
@pytest.mark.slow
def test_fixed_lag_moments_are_those_given_a_few_more_steps(lag, horizon, key):
    """The moments of x_1 given y up to `horizon`, by Kalman on the shortened series; the last step's are filtered."""
    moments = ppl.infer(walk(YS), ppl.SMC(50_000, store="lag", lag=lag), key=key).history.smoothed["x"]
    np.testing.assert_allclose(moments.mean, MEANS[1:], atol=0.025)
    np.testing.assert_allclose(moments.variance, VARIANCES[1:], atol=0.02)


@pytest.mark.slow
def test_a_lag_is_no_longer_than_asked(key):
    """With lag 1 the last of three observations says nothing of the first step; with lag 2 it does."""

    def first(last, lag):
        ys = jnp.array([0.5, 1.0, 0.2, last])
        return ppl.infer(walk(ys), ppl.SMC(20_000, store="lag", lag=lag), key=key).history.smoothed["x"].mean[0]

    assert first(0.2, 1) == first(2.0, 1)
    assert abs(first(0.2, 2) - first(2.0, 2)) > 0.05


def refused(program, match, method=None, key=0):
    with pytest.raises(MeasureError, match=match):
        backward_simulation(ppl.infer(program, method or ppl.SMC(20, store="filter"), key=key), 3, key)


@pytest.mark.slow
def test_what_cannot_be_simulated_backwards_is_refused():
    @ppl.model
    def parameter(ys):
        scale = ppl.sample("scale", dist.HalfNormal(1.0))

        def step(x, y):
            x = ppl.sample("x", dist.Normal(x, scale))
            ppl.sample("y", dist.Normal(x, 1.0), obs=y)
            return x, None

        return jax.lax.scan(step, 0.0, ys)[0]

    @ppl.model
    def summed(ys):
        def step(total, y):
            total = total + ppl.sample("x", dist.Normal(0.0, 1.0))
            ppl.sample("y", dist.Normal(total, 1.0), obs=y)
            return total, None

        return jax.lax.scan(step, 0.0, ys)[0]

    refused(parameter(YS), "unknown parameters")
    refused(summed(YS), "more than its last choices")
    refused(walk(YS), "not stored", ppl.SMC(20))
