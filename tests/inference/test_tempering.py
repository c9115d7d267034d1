"""Parallel tempering as a method: masses of far modes, the ladder, round trips, and what is refused."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import MeasureError
from ppl.inference import checkpoint, hmc, replicated, runner, tempered
from ppl.inference.parallel_tempering import ParallelTempering, round_trips
from ppl.inference.tempering_sampler import equal_ladder

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
        alone = ppl.infer(far_modes(), ppl.MCMC(HMC), key=2, chains=4, warmup=50, draws=200)
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


# --- what every method that runs chains can do -----------------------------------------------------------------------

SMALL = ParallelTempering(HMC, (1.0, 0.3, 0.05))
SHORT = {"key": 4, "chains": 2, "warmup": 44, "draws": 30, "progress": False}


def short(**settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ppl.errors.ConvergenceWarning)
        return ppl.infer(far_modes(), SMALL, **{**SHORT, **settings})


@pytest.fixture(scope="module")
def whole():
    return short()


def assert_same(one, other):
    for part in ("draws", "stats", "diagnostics"):
        for name, values in getattr(one, part).items():
            np.testing.assert_array_equal(getattr(other, part)[name], values, err_msg=name)


def test_a_cut_and_an_extension_change_nothing(whole, monkeypatch):
    assert whole.diagnostics["beta[1]"] != pytest.approx(0.3, abs=1e-4)  # the ladder has moved
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ppl.errors.ConvergenceWarning)
        longer = short(draws=12).extend(18)
    np.testing.assert_array_equal(longer.draws["x"], whole.draws["x"])
    monkeypatch.setattr(runner, "FIRST", 3)
    monkeypatch.setattr(runner, "SLICE", 1e-9)
    assert_same(whole, short())


def test_a_run_is_resumed_bit_for_bit(whole, tmp_path, monkeypatch):
    for part, value in (("FIRST", 4), ("SLICE", 1e-9), ("LOOK", 1e-4)):
        monkeypatch.setattr(runner, part, value)
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 0.0)
    save = checkpoint.Checkpoint.__call__

    def dying(self, tracks, *, lazily=False):
        save(self, tracks, lazily=lazily)
        if any(track is not None and track.batches for track in tracks):
            raise RuntimeError("killed")

    monkeypatch.setattr(checkpoint.Checkpoint, "__call__", dying)
    with pytest.raises(RuntimeError, match="killed"):
        short(checkpoint=tmp_path / "run.ckpt", progress=True)
    monkeypatch.undo()
    assert_same(whole, short(checkpoint=tmp_path / "run.ckpt"))


def test_only_what_is_asked_for_is_kept(whole):
    kept = short(keep=lambda choices: choices["x"][0])
    assert kept.draws == {}
    np.testing.assert_allclose(kept.values, np.asarray(whole.draws["x"])[..., 0], rtol=1e-6)


@pytest.mark.slow
def test_chains_side_by_side_are_the_same_up_to_rounding(whole):
    """Rounding is magnified by accept-reject steps, so that only the first draws after a short warm-up are compared."""
    few = {"warmup": 0, "draws": 5}
    one, other = short(**few), short(**few, layout="vmap")
    np.testing.assert_allclose(other.draws["x"], one.draws["x"], rtol=1e-3, atol=1e-3)
