"""Convergence diagnostics against known cases: independent draws, an AR(1) chain, chains that disagree."""

import numpy as np
import pytest

from ppl.diagnostics.convergence import convergence, effective_sample_size, monte_carlo_error, r_hat
from ppl.errors import ShapeError

INDEPENDENT = 2.0 + 3.0 * np.random.default_rng(7).normal(size=(4, 1000))


def autoregressive(rng, rho, chains=4, draws=4000):
    noise = rng.normal(size=(chains, draws))
    values = np.empty_like(noise)
    values[:, 0] = noise[:, 0] / np.sqrt(1 - rho**2)
    for t in range(1, draws):
        values[:, t] = rho * values[:, t - 1] + noise[:, t]
    return values


def test_independent_draws():
    found = convergence(INDEPENDENT)
    assert abs(found.r_hat - 1) < 0.01
    assert 3200 < found.ess_bulk < 4800
    assert 3000 < found.ess_tail < 5000
    np.testing.assert_allclose(found.mcse_mean, 3 / np.sqrt(4000), rtol=0.1)
    np.testing.assert_allclose(found.mcse_sd, 3 / np.sqrt(2 * 4000), rtol=0.15)


def test_autocorrelation_costs_what_theory_says(rng):
    # The integrated autocorrelation time of an AR(1) chain is (1 + rho) / (1 - rho) = 9 at rho = 0.8.
    draws = autoregressive(rng, 0.8)
    np.testing.assert_allclose(effective_sample_size(draws), draws.size / 9, rtol=0.2)
    np.testing.assert_allclose(monte_carlo_error(draws), draws.std() * np.sqrt(9 / draws.size), rtol=0.1)


def test_chains_that_disagree_in_place_or_in_scale():
    assert r_hat(INDEPENDENT + np.array([0.0, 0.0, 0.0, 4.0])[:, None]) > 1.1
    centred = INDEPENDENT - 2.0
    assert r_hat(centred * np.array([1.0, 1.0, 1.0, 9.0])[:, None]) > 1.1


def test_elements_are_judged_each_by_itself(rng):
    draws = rng.normal(size=(4, 500, 2, 3))
    draws[0, :, 1, 2] += 5.0
    draws[3, 17, 0, 1] = np.nan
    found = r_hat(draws)
    assert found.shape == (2, 3)
    assert found[1, 2] > 1.2
    assert np.isnan(found[0, 1])
    assert (np.delete(found.ravel(), [1, 5]) < 1.02).all()


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
def test_other_dtypes(dtype, rng):
    draws = (rng.random((4, 500)) < 0.3).astype(dtype)
    assert abs(r_hat(draws) - 1) < 0.02
    assert effective_sample_size(draws, "tail") > 500


def test_what_cannot_be_told_is_nan_without_a_warning():
    assert np.isnan(r_hat(INDEPENDENT[:1]))
    assert effective_sample_size(INDEPENDENT[:1]) > 500
    assert np.isnan(r_hat(np.ones((4, 100))))
    assert monte_carlo_error(np.ones((4, 100))) == 0
    assert np.isnan(convergence(INDEPENDENT[:, :3])).all()
    assert np.isnan(r_hat(np.full((4, 100), np.inf)))
    assert r_hat(np.ones((4, 100, 0))).shape == (0,)


def test_a_missing_chain_axis_is_an_error_that_says_so():
    # Under the type checks of this suite jaxtyping objects first; users see the ShapeError.
    with pytest.raises(Exception, match=r"chains draws|leading axes") as caught:
        r_hat(INDEPENDENT[0])
    assert isinstance(caught.value, ShapeError) or "TypeCheck" in type(caught.value).__name__
