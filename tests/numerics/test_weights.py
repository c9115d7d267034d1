"""Log weights: closed forms, and no NaN in values or gradients whatever the weights are (law 18)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.numerics import weights as w

NOTHING = jnp.full(3, -jnp.inf)
MIXED = jnp.log(jnp.array([0.2, 0.0, 1.4]))


def test_log_sum_and_mean_exp_against_numpy():
    values = jnp.array([[0.3, -1.2, 2.0], [-800.0, -801.0, -900.0]])
    expected = np.logaddexp.reduce(np.asarray(values, np.float64), axis=-1)
    np.testing.assert_allclose(w.log_sum_exp(values), expected, rtol=1e-6)
    np.testing.assert_allclose(w.log_mean_exp(values), expected - np.log(3), rtol=1e-6)


@pytest.mark.parametrize("function", [w.log_sum_exp, w.log_mean_exp])
def test_no_mass_gives_minus_infinity_and_a_zero_gradient(function):
    value, gradient = jax.value_and_grad(function)(NOTHING)
    assert value == -jnp.inf
    np.testing.assert_array_equal(gradient, 0.0)


def test_gradient_is_the_normalised_weights():
    gradient = jax.grad(w.log_sum_exp)(MIXED)
    np.testing.assert_allclose(gradient, [0.125, 0.0, 0.875], rtol=1e-6)


def test_normalize_splits_weights_and_mass():
    normalized, log_mass = w.normalize_log_weights(MIXED + 500.0)
    np.testing.assert_allclose(jnp.exp(normalized), [0.125, 0.0, 0.875], rtol=1e-4)
    np.testing.assert_allclose(log_mass, 500.0 + np.log(1.6), rtol=1e-6)


def test_normalize_nothing_has_no_nan():
    normalized, log_mass = w.normalize_log_weights(NOTHING)
    np.testing.assert_array_equal(normalized, -np.inf)
    assert log_mass == -jnp.inf
    assert not w.has_mass(NOTHING)
    assert w.effective_sample_size(NOTHING) == 0


def test_nan_counts_as_weight_zero_and_is_counted():
    broken = jnp.array([0.0, jnp.nan, jnp.log(3.0)])
    normalized = w.normalize_log_weights(broken).log_weights
    np.testing.assert_allclose(jnp.exp(normalized), [0.25, 0.0, 0.75], rtol=1e-6)
    assert w.count_nan(broken) == 1


def test_infinite_weights_share_everything():
    normalized, log_mass = w.normalize_log_weights(jnp.array([jnp.inf, 5.0, jnp.inf, -jnp.inf]))
    np.testing.assert_allclose(jnp.exp(normalized), [0.5, 0.0, 0.5, 0.0])
    assert log_mass == jnp.inf


def test_rows_are_separate_populations():
    rows = jnp.stack([MIXED, NOTHING])
    np.testing.assert_allclose(w.effective_sample_size(rows), [1.6**2 / (0.04 + 1.96), 0.0], rtol=1e-6)
    np.testing.assert_array_equal(w.has_mass(rows), [True, False])


def test_log_evidence_matches_the_delta_method_written_out():
    draws = np.array([0.5, 1.0, 4.0, 0.1])
    estimate = w.log_evidence(jnp.log(jnp.array(draws)) - 300.0)
    np.testing.assert_allclose(estimate.value, np.log(draws.mean()) - 300.0, rtol=1e-6)
    expected = draws.std(ddof=1) / np.sqrt(4) / draws.mean()
    np.testing.assert_allclose(estimate.standard_error, expected, rtol=1e-3)


def test_log_evidence_error_covers_replicated_runs(key):
    # Weights exp(s z) have mean exp(s^2 / 2): 400 runs of 500 draws. The z-scores have standard deviation 1; over 400
    # runs its estimate has standard error 0.035, and 0.2 is 5.6 of them (below 1e-7 for a normal z).
    scale = 0.5
    runs = w.log_evidence(scale * jax.random.normal(key, (400, 500)))
    z = (runs.value - scale**2 / 2) / runs.standard_error
    assert abs(float(jnp.std(z)) - 1.0) < 0.2
    halved = z * 2.0  # the mutant: an error that is half of what it should be
    assert abs(float(jnp.std(halved)) - 1.0) > 0.2


@pytest.mark.parametrize("log_weights", [jnp.zeros(1), NOTHING])
def test_log_evidence_error_is_infinite_where_weights_cannot_tell_it(log_weights):
    assert w.log_evidence(log_weights).standard_error == jnp.inf
