"""Dual averaging: the formulas of Hoffman and Gelman's algorithm 5, and the acceptance that it brings about."""

import jax
import numpy as np
import pytest

from ppl.inference.warmup import started
from ppl.numerics.step_size import updated


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def naive(step, acceptances, target):
    """Algorithm 5: mu = log step, gamma = 0.05, t0 = 10, kappa = 0.75."""
    error, log_average, log_step = 0.0, None, np.log(step)
    for m, acceptance in enumerate(acceptances, start=1):
        error = (1 - 1 / (m + 10)) * error + (target - acceptance) / (m + 10)
        log_step = np.log(step) - np.sqrt(m) / 0.05 * error
        weight = m**-0.75
        log_average = weight * log_step + (1 - weight) * (0.0 if log_average is None else log_average)
    return log_step, log_average


def test_equal_to_the_algorithm(rng):
    acceptances = rng.random(30)
    state = started(0.3, np.float64)
    for acceptance in acceptances:
        state = updated(state, acceptance, 0.8)
    log_step, log_average = naive(0.3, acceptances, 0.8)
    assert float(state.log_step) == pytest.approx(log_step, rel=1e-12)
    assert float(state.log_average) == pytest.approx(log_average, rel=1e-12)


@pytest.mark.parametrize("target", [0.6, 0.9])
@pytest.mark.parametrize("start", [0.01, 20.0])
def test_the_averaged_step_has_the_target_acceptance(target, start, rng):
    """Acceptance exp(-step^2) with noise."""
    state, update = started(start, np.float64), jax.jit(updated)
    for noise in rng.uniform(-0.05, 0.05, 1500):
        state = update(state, np.clip(np.exp(-np.exp(2 * np.asarray(state.log_step))) + noise, 0, 1), target)
    assert np.exp(-np.exp(2 * float(state.log_average))) == pytest.approx(target, abs=0.02)
