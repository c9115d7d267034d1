"""Parallel tempering as a method: masses of far modes, the ladder, round trips, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import MeasureError
from ppl.inference import hmc, replicated, tempered
from ppl.inference.parallel_tempering import ParallelTempering, equal_ladder, round_trips

HMC = hmc(0.25, 3)
CENTRES = jnp.array([[-3.0, 1.0], [3.0, -2.0]])
MASS = 0.3


@ppl.model
def far_modes():
    """A flat prior box in effect; the likelihood is 0.3 N(-3, 1; 0.5) + 0.7 N(3, -2; 0.5), 13 sd apart."""
    x = ppl.sample("x", dist.Normal(0.0, 20.0).expand([2]).to_event(1))
    parts = dist.Normal(CENTRES, 0.5).to_event(1).log_prob(jnp.broadcast_to(x, (2, 2)))
    prior = dist.Normal(0.0, 20.0).expand([2]).to_event(1).log_prob(CENTRES)
    ppl.factor("modes", jnp.logaddexp(parts[0] + jnp.log(MASS) - prior[0], parts[1] + jnp.log(1 - MASS) - prior[1]))


CHAINS, DRAWS = 40, 300


@pytest.fixture(scope="module")
def posterior():
    method = ParallelTempering(HMC, (1.0, 0.5, 0.2, 0.05, 0.015, 0.004))
    with pytest.warns(ppl.errors.ConvergenceWarning):  # chains are short here
        return ppl.infer(far_modes(), method, key=1, chains=CHAINS, warmup=160, draws=DRAWS)


def left_mass(posterior):
    return np.asarray(posterior.draws["x"])[..., 0] < 0


@pytest.mark.slow
def test_masses_of_modes(posterior):
    """Means of independent chains: a t statistic of 39 degrees of freedom beyond 5.9 has a chance of 7e-7."""
    means = left_mass(posterior).mean(1)
    error = means.std(ddof=1) / np.sqrt(CHAINS)
    assert error < 0.05
    assert abs(means.mean() - MASS) < 5.9 * error
    assert (np.diff(left_mass(posterior).astype(int), axis=1) != 0).sum() > 100


def test_the_kernel_alone_is_stuck():
    with pytest.warns(ppl.errors.ConvergenceWarning):
        alone = ppl.infer(far_modes(), ppl.inference.mcmc.MCMC(HMC), key=2, chains=4, warmup=50, draws=200)
    assert (np.diff(left_mass(alone).astype(int), axis=1) != 0).sum() == 0


@pytest.mark.slow
def test_the_ladder_is_learnt_and_round_trips_are_counted(posterior):
    found = posterior.diagnostics
    rates = [found[f"swap_rate[{k}]"] for k in range(5)]
    assert min(rates) > 0.2
    assert max(rates) - min(rates) < 0.3
    assert found["beta[0]"] == 1.0
    assert found["round_trips"] > CHAINS
    assert set(posterior.stats) == {"accepted", "acceptance", "diverging"}


def test_equal_distances():
    betas = equal_ladder(np.array([1.0, 0.5, 0.25, 0.0]), np.array([0.3, 0.3, 0.3]))
    np.testing.assert_allclose(betas, [1.0, 0.5, 0.25, 0.0])
    assert (np.diff(equal_ladder(np.array([1.0, 0.5, 0.25, 0.0]), np.zeros(3))) < 0).all()


def test_round_trips_by_hand():
    # Three replicas, pairs 0 and 1. State A goes 0 -> 2 in the first step, 2 -> 1 in the second, 1 -> 0 in the third.
    swapped = np.array([[[1, 1], [0, 1], [1, 0]]], bool)
    assert round_trips(swapped).tolist() == [1]
    assert round_trips(swapped[:, :2]).tolist() == [0]
    assert round_trips(np.zeros((2, 5, 3), bool)).tolist() == [0, 0]


def test_refusals():
    with pytest.raises(ValueError, match="fall from 1"):
        ParallelTempering(HMC, (1.0, 0.5, 0.7))
    with pytest.raises(ValueError, match="fall from 1"):
        replicated(far_modes(), (0.9, 0.5))
    with pytest.raises(MeasureError, match="'far_modes', which has no replicas"):
        tempered(HMC)(far_modes())
