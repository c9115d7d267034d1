"""What a run says aloud: nothing for a good run, and each defect with its address, its number and what to try."""

import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.diagnostics.convergence import convergence
from ppl.diagnostics.energy import energy_bfmi
from ppl.diagnostics.screening import screen
from ppl.errors import ConvergenceWarning
from ppl.inference.advice import mcmc_notes, say, wanted
from ppl.inference.divergences import concentration
from ppl.inference.scalars import scalars_of


@pytest.fixture
def good(rng):
    draws = {
        "tau": rng.gamma(2.0, size=(4, 1000)),
        "theta": rng.normal(size=(4, 1000, 3)),
        "n": rng.poisson(3, (4, 1000)),
    }
    return {"draws": draws, "stats": {"energy": rng.normal(size=(4, 1000)), "diverging": np.zeros((4, 1000), bool)}}


def notes_of(parts, **extra):
    notes = mcmc_notes(ppl.Posterior(**{**parts, **extra}))
    assert all(note.warning for note in notes)
    return [note.text for note in notes]


def test_a_good_run_says_nothing(good):
    assert notes_of(good) == []


def test_a_good_run_asks_nothing_of_arviz(good, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_stats.base.array", None)
    assert notes_of(good) == []


def test_chains_that_disagree(good):
    good["draws"]["theta"][3, :, 1] += 1.0
    first, *_ = notes_of(good)
    found = convergence(good["draws"]["theta"][:, :, 1])
    assert first.startswith(
        f"theta[1]: R-hat {found.r_hat:.2f} (want below 1.01). The chains have not mixed: run longer"
    )
    assert "warmup=2000, draws=2000" in first


def test_labels_that_were_summed_out_are_not_judged_but_named_as_a_cause(good):
    good["draws"]["z"] = np.repeat(np.arange(4), 1000).reshape(4, 1000)
    assert notes_of(good)[0].startswith("z: R-hat")
    assert mcmc_notes(ppl.Posterior(**good), {"z"}) == []
    good["draws"]["theta"][3, :, 1] += 1.0
    first, *_ = mcmc_notes(ppl.Posterior(**good), {"z"})
    assert first.text.startswith("theta[1]: R-hat")
    assert "The labels z were summed out: parts that share a prior can change their labels" in first.text


def test_a_run_says_what_to_do_with_labels():
    @ppl.model
    def mixed(y):
        mu = ppl.sample("mu", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        with ppl.plate("n", 40):
            z = ppl.sample("z", dist.Bernoulli(0.5))
            ppl.sample("y", dist.Normal(mu[z], 0.5), obs=y)

    y = jnp.concatenate([jnp.linspace(-4.5, -3.5, 20), jnp.linspace(3.5, 4.5, 20)])
    start = {"mu": np.array([[-4.0, 4.0], [4.0, -4.0]])}
    with pytest.warns(
        ConvergenceWarning, match=r"(?s)! mu\[\d\]: R-hat .* of 2 scalars .*The labels z were summed out"
    ):
        ppl.infer(mixed(y), ppl.NUTS(start=start), key=0, chains=2, warmup=50, draws=60, progress=False)


def test_few_effective_draws_name_the_worst_and_count_the_others(good, rng):
    walk = rng.normal(size=(4, 1000, 3))
    for t in range(1, 1000):
        walk[:, t] += np.array([0.0, 0.97, 0.9]) * walk[:, t - 1]
    good["draws"]["theta"] = walk
    text = "\n".join(notes_of(good))
    least = float(convergence(walk[..., 1]).ess_bulk)
    assert f"theta[1]: bulk ESS {least:.0f} (want 400), and 1 more of 5 scalars (theta[2]). Run at least" in text
    assert "tau" not in text


def test_divergences_that_gather_are_located(good):
    tau = good["draws"]["tau"]
    good["stats"]["diverging"] = tau < np.quantile(tau, 0.01)
    (text,) = notes_of(good)
    assert text.startswith("40 of 4000 draws diverged, 80% of them where tau < ")
    assert text.endswith("Try ppl.NUTS(target_acceptance=0.9).")
    good["stats"]["acceptance"] = np.full(tau.shape, 0.92)
    assert notes_of(good)[0].endswith("Try ppl.NUTS(target_acceptance=0.99).")


def test_divergences_without_a_pattern_name_no_region(good, rng):
    good["stats"]["diverging"] = rng.random((4, 1000)) < 0.01
    (text,) = notes_of(good)
    assert "diverged: the posterior is not explored there" in text
    assert concentration(scalars_of(ppl.Posterior(**good)), good["stats"]["diverging"]) is None


def test_the_choice_to_draw_noncentred_is_found(good):
    @ppl.model
    def groups():
        tau = ppl.sample("tau", dist.HalfNormal(2.0))
        n = ppl.sample("n", dist.Poisson(3.0))
        with ppl.plate("school", 3):
            ppl.sample("theta", dist.Normal(1.0, tau))
        return n

    tau = good["draws"]["tau"]
    good["stats"]["diverging"] = tau < np.quantile(tau, 0.01)
    (text,) = notes_of(good, program=groups())
    assert "ppl.reparam(program, {'theta': ppl.noncentered()})" in text


def test_low_energy_fraction_and_short_trajectories(good, rng):
    good["stats"]["energy"][2] = rng.normal(size=1000).cumsum()
    good["stats"]["max_tree_depth_reached"] = rng.random((4, 1000)) < 0.5
    good["stats"]["tree_depth"] = np.full((4, 1000), 10)
    energy, depth = notes_of(good)
    assert energy.startswith(
        f"E-BFMI {energy_bfmi(good['stats']['energy'])[2]:.2f} in chain 2 (want above 0.3), low in 1 of 4"
    )
    assert "cut short at the largest tree depth 10" in depth


def test_frozen_chains_and_draws_that_are_not_finite(good):
    for x in good["draws"].values():
        x[1] = x[1, :1]
    assert "Chain 1 never moved" in "\n".join(notes_of(good))
    good["draws"]["tau"][0, 5] = np.inf
    assert notes_of(good)[0].startswith("tau: 1 draws are not finite")


def test_short_runs_are_held_to_less(rng):
    assert wanted(4, 1000) == (1.01, 400)
    assert wanted(4, 100) == (1.03, 100)
    assert notes_of({"draws": {"a": rng.normal(size=(4, 100))}}) == []


def test_weighted_posteriors_have_nothing_to_do_with_chains(rng):
    posterior = ppl.Posterior(draws={"a": rng.normal(size=(4, 9)).cumsum(1)}, log_weights=jnp.zeros((4, 9)))
    assert mcmc_notes(posterior) == []


def test_choices_inside_branches_are_left_out(good, rng):
    mask = rng.random((4, 1000)) < 0.5
    good["draws"]["tau"][3] += 9.0
    assert notes_of(good, masks={"tau": mask}) == []


def test_all_is_said_in_one_warning_from_the_users_line(good):
    good["draws"]["theta"][3] += 1.0
    good["stats"]["diverging"][0, :5] = True
    notes = mcmc_notes(ppl.Posterior(**good))
    with pytest.warns(ConvergenceWarning, match=r"(?s)^NUTS on 'm':\n! 5 of 4000 draws diverged.*\n! theta") as caught:
        say(notes, "NUTS on 'm'")
    assert [w.filename for w in caught] == [__file__]
    with warnings.catch_warnings():
        say([], "NUTS on 'm'")


@pytest.mark.parametrize("rho", [0.0, 0.8, 0.95])
def test_the_screen_is_near_what_arviz_says(rho, rng):
    draws = rng.normal(size=(4, 2000, 1))
    for t in range(1, 2000):
        draws[:, t] += rho * draws[:, t - 1]
    cheap, careful = screen(draws), convergence(draws)
    np.testing.assert_allclose(cheap.r_hat, careful.r_hat, atol=0.01)
    assert 0.5 < cheap.ess[0] / careful.ess_bulk[0] < 1.5


def test_the_screen_looks_at_heavy_tails_constants_and_chunks(rng):
    draws = np.stack([rng.standard_cauchy((4, 500)), np.full((4, 500), 7.0)], axis=2)
    found = screen(np.tile(draws, (1, 1, 1500)))
    assert found.r_hat.shape == (3000,)
    assert (found.r_hat[::2] < 1.01).all()
    assert np.isnan(found.r_hat[1::2]).all()
    assert not found.frozen.any()
