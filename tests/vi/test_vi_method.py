"""`ppl.VI` and `ppl.Pathfinder`: closed forms, what is said aloud, corrected draws, guides of every name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ppl
import ppl.distributions as dist
from ppl import vi
from ppl.errors import ConvergenceWarning, DegenerateWeightsError
from ppl.inference.approximation import judged
from ppl.numerics.lbfgs_path import Height, gaussian_at, path

Y = jnp.array([2.0, 3.0, 1.5])


@ppl.model
def normal(y):
    """Posterior of x: precision 1/4 + 3, and of z: its prior, LogNormal(0.3, 0.2)."""
    x = ppl.sample("x", dist.Normal(1.0, 2.0))
    z = ppl.sample("z", dist.LogNormal(0.3, 0.2))
    ppl.deterministic("twice", 2.0 * z)
    ppl.sample("y", dist.Normal(x, 1.0).expand([3]).to_event(1), obs=y)
    return x + z


PRECISION = 3.25
MEAN = float((0.25 + Y.sum()) / PRECISION)
LOG_EVIDENCE = float(dist.MultivariateNormal(jnp.ones(3), jnp.eye(3) + 4.0).log_prob(Y))
QUICK = {"steps": 600, "optimizer": optax.adam(optax.exponential_decay(0.1, 100, 0.5))}


def moments(posterior):
    x, z = np.asarray(posterior.draws["x"])[0], np.log(np.asarray(posterior.draws["z"])[0])
    np.testing.assert_allclose(x.mean(), MEAN, atol=0.12)  # 5 standard errors of 1000 draws: 0.09
    np.testing.assert_allclose(x.std(), PRECISION**-0.5, rtol=0.15)
    np.testing.assert_allclose(z.mean(), 0.3, atol=0.05)
    np.testing.assert_allclose(z.std(), 0.2, rtol=0.15)


@pytest.fixture(scope="module")
def fitted():
    return ppl.infer(normal(Y), ppl.VI(**QUICK), key=0)


def test_the_closed_form(fitted):
    moments(fitted)
    assert fitted.draws["x"].shape == (1, 1000)
    assert fitted.log_weights is None
    np.testing.assert_allclose(fitted.deterministic["twice"], 2.0 * fitted.draws["z"])
    np.testing.assert_allclose(fitted.values, fitted.draws["x"] + fitted.draws["z"], rtol=1e-5)


def test_bound_and_evidence_are_told_apart(fitted):
    numbers, evidence = fitted.diagnostics, fitted.log_evidence
    ratios = np.asarray(fitted.stats["log_weight"], np.float64)[0]
    assert numbers["elbo"] == pytest.approx(ratios.mean())
    assert evidence.estimate == pytest.approx(np.logaddexp.reduce(ratios) - np.log(1000), abs=1e-4)
    assert LOG_EVIDENCE - 0.1 < numbers["elbo"] <= evidence.estimate
    np.testing.assert_allclose(evidence.estimate, LOG_EVIDENCE, atol=0.02)
    assert numbers["elbo_standard_error"] == pytest.approx(ratios.std(ddof=1) / np.sqrt(1000))


def test_what_is_said(fitted):
    text = repr(fitted)
    assert "Posterior by VI: 1000 draws" in text
    assert "600 steps (all made); objective at the end -" in text
    assert "nats, a lower bound" in text
    assert "Pareto k of the approximation" in text
    assert fitted.history.history.shape == (600,)
    assert set(fitted.history.params) == {"mean", "log_sd"}


@pytest.mark.parametrize("guide", ["full_rank", "low_rank"])
def test_guides_by_name(guide):
    moments(ppl.infer(normal(Y), ppl.VI(guide, **QUICK), key=1))


def test_laplace_needs_no_steps():
    posterior = ppl.infer(normal(Y), ppl.VI("laplace"), key=1)
    moments(posterior)
    assert posterior.history is None
    assert "all ratios are equal" in repr(posterior)


def test_a_mode_is_a_point():
    """The mode of the density on the support: that of LogNormal(m, s) is exp(m - s^2)."""
    posterior = ppl.infer(normal(Y), ppl.VI("map", **QUICK), key=1)
    assert posterior.draws["x"].shape == (1, 1)
    np.testing.assert_allclose(posterior.draws["x"][0, 0], MEAN, atol=1e-2)
    np.testing.assert_allclose(posterior.draws["z"][0, 0], np.exp(0.3 - 0.04), atol=1e-2)
    assert posterior.log_evidence is None
    assert "it says nothing of the spread" in repr(posterior)
    at = {a: x[0, 0] for a, x in posterior.draws.items()}
    np.testing.assert_allclose(posterior.stats["log_density"][0, 0], normal(Y).log_density(at), rtol=1e-5)


# --- guides of one's own, corrections, warnings ----------------------------------------------------------------------


@ppl.model
def own(params):
    x = ppl.sample("x", dist.Normal(params["mean"], jnp.exp(params["log_sd"])))
    ppl.sample("z", dist.LogNormal(0.3 + 0.0 * x, 0.2))


def test_a_guide_of_ones_own_with_another_objective():
    """The guide has the posterior, so that it is the optimum of every bound."""
    objective = lambda program, guide: vi.iwelbo(program, guide, 2)
    method = ppl.VI(own, params={"mean": 0.0, "log_sd": 0.0}, objective=objective, particles=4, **QUICK)
    posterior = ppl.infer(normal(Y), method, key=0)
    moments(posterior)
    np.testing.assert_allclose(posterior.history.params["log_sd"], -0.5 * np.log(PRECISION), atol=0.15)
    with pytest.raises(ValueError, match="the guide 'own' without parameters"):
        ppl.VI(guide=own)


def beside(log_sd):
    """The posterior from a guide that stays where it starts, 0.4 beside the truth."""
    method = ppl.VI(
        own, params={"mean": MEAN + 0.4, "log_sd": log_sd}, steps=1, optimizer=optax.sgd(1e-9), correct=True
    )
    return ppl.infer(normal(Y), method, key=0)


def test_a_poor_guide_is_said_aloud():
    with pytest.warns(ConvergenceWarning, match=r"(?s)VI on 'normal'.*Pareto k of the approximation \d.* > 0.67"):
        beside(log_sd=-3.0)


def test_corrected_draws_carry_weights_that_take_the_guides_error_away():
    posterior = beside(log_sd=-0.4)  # wider than the posterior; 5 standard errors of a mean are 0.09 with 1000 draws
    smoothed, raw = np.asarray(posterior.log_weights)[0], np.asarray(posterior.stats["log_weight"])[0]
    np.testing.assert_allclose(np.logaddexp.reduce(smoothed), np.logaddexp.reduce(raw), rtol=1e-4)
    equal = posterior.resample(0)
    assert equal.log_weights is None
    assert abs(float(equal.draws["x"].mean()) - MEAN) < 0.15
    assert abs(float(posterior.draws["x"].mean()) - MEAN) > 0.25


def test_supports_that_do_not_nest():
    found = judged(jnp.array([-1.0, -2.0, -jnp.inf] * 20))
    assert found.bound.estimate == -np.inf
    assert "their supports do not nest" in found.notes("")[0].text
    assert found.diagnostics["elbo_standard_error"] == np.inf


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="chains=4, but ppl.VI knows no such setting"):
        ppl.infer(normal(Y), ppl.VI(), key=0, chains=4)
    with pytest.raises(ValueError, match="guide is 'mean'.\nExpected: one of 'mean_field'"):
        ppl.VI(guide="mean")
    with pytest.raises(ValueError, match="warmup=5, but ppl.Pathfinder"):
        ppl.infer(normal(Y), ppl.Pathfinder(), key=0, warmup=5)


# --- Pathfinder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paths", [1, 4])
def test_pathfinder_reaches_the_closed_form(paths):
    posterior = ppl.infer(normal(Y), ppl.Pathfinder(paths), key=0, draws=1000)
    moments(posterior.resample(0))
    np.testing.assert_allclose(posterior.log_evidence.estimate, LOG_EVIDENCE, atol=0.05)
    assert posterior.diagnostics["elbo"] <= posterior.log_evidence.estimate
    assert set(np.unique(posterior.stats["path"])) == set(range(paths))
    np.testing.assert_allclose(posterior.deterministic["twice"], 2.0 * posterior.draws["z"])
    assert f"{paths} path" in repr(posterior)


@ppl.model
def two_modes(y):
    m = ppl.sample("m", dist.Normal(0.0, 10.0))
    z = ppl.sample("z", dist.Bernoulli(0.3))
    ppl.sample("y", dist.Normal(jnp.where(z == 1, m, -m), 1.0), obs=y)


def test_several_paths_weigh_several_modes_and_draw_labels_back():
    """m is near 4 with probability .3, else near -4; y ~ Normal(0, sqrt(101)). A path's own weights would say .5."""
    posterior = ppl.infer(two_modes(4.0), ppl.Pathfinder(8), key=0, draws=4000)
    weights = np.exp(np.asarray(posterior.log_weights, np.float64)[0])
    weights /= weights.sum()
    share = float(weights[np.asarray(posterior.draws["m"])[0] > 0].sum())
    assert abs(share - 0.3) < 0.06  # 0.3 (1 - 0.3) / 4000 gives 0.007; weights at most triple its square
    np.testing.assert_array_equal(posterior.draws["z"] == 1, posterior.draws["m"] > 0)
    np.testing.assert_allclose(
        posterior.log_evidence.estimate, float(dist.Normal(0.0, 101.0**0.5).log_prob(4.0)), atol=0.06
    )


def test_the_density_of_a_paths_gaussian_is_that_of_its_draws(rng):
    def height(x):
        return float(-0.5 * np.sum((x - 3.0) ** 2 / [1.0, 25.0, 4.0]) - 0.1 * x[0] * x[1]), np.array(
            [-(x[0] - 3.0) - 0.1 * x[1], -(x[1] - 3.0) / 25.0 - 0.1 * x[0], -(x[2] - 3.0) / 4.0]
        )

    begin = np.array([8.0, -5.0, 1.0])
    *_, (here, curvature) = path(height, Height(begin, *height(begin)))
    gaussian = gaussian_at(here, curvature)
    places, log_q = gaussian.draws(rng.standard_normal((6, 3)))
    np.testing.assert_allclose(gaussian.log_density(places), log_q, rtol=1e-9)


@ppl.model
def impossible():
    x = ppl.sample("x", dist.Normal(0.0, 1.0))
    ppl.factor("never", jnp.where(x > 50.0, 0.0, -jnp.inf))


def test_nowhere_to_climb():
    with pytest.raises(
        DegenerateWeightsError, match=r"(?s)None of 2 paths of ppl.Pathfinder on 'impossible'.*never.*-inf"
    ):
        ppl.infer(impossible(), ppl.Pathfinder(2), key=0, check_data=False)


def test_keys_and_new_data():
    first, again, other = (ppl.infer(normal(Y), ppl.Pathfinder(2), key=k, draws=50) for k in (1, 1, 2))
    np.testing.assert_array_equal(first.draws["x"], again.draws["x"])
    assert not np.array_equal(first.draws["x"], other.draws["x"])
    moved = ppl.infer(normal(Y + 4.0), ppl.Pathfinder(2), key=1, draws=200)
    assert abs(float(jnp.mean(moved.draws["x"])) - (MEAN + 12.0 / PRECISION)) < 0.3
    assert jax.tree.leaves(moved.values)[0].shape == (1, 200)
