"""The examples with NUTS on real data: what they print agrees with other software's answers about the same data."""

import importlib.util
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.tsa.regime_switching.markov_regression import MarkovRegression

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = pytest.mark.filterwarnings("ignore::ppl.errors.ConvergenceWarning")  # quick runs


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, folder, *pictures):
    """The module and its posterior; its pictures are there, and its chains agree."""
    module = loaded(name)
    posterior = module.main(quick=True, folder=str(folder))
    for picture in pictures or (name,):
        assert (folder / f"{picture}.png").stat().st_size > 10_000
    assert posterior.stats["diverging"].mean() < 0.02
    return module, posterior


def mean_of(posterior, address):
    return np.asarray(posterior.arrays[address]).mean(axis=(0, 1))


@pytest.fixture(autouse=True)
def _no_display(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")


def test_eight_schools_agrees_with_posteriordbs_reference(tmp_path):
    """Means of the reference draws of `eight_schools_noncentered`; the errors here are about 0.1."""
    _, posterior = run("eight_schools", tmp_path)
    assert mean_of(posterior, "mu") == pytest.approx(4.4, abs=0.6)
    assert mean_of(posterior, "tau") == pytest.approx(3.6, abs=0.6)
    expected = [6.2, 4.9, 3.9, 4.8, 3.6, 4.0, 6.3, 4.9]
    np.testing.assert_allclose(mean_of(posterior, "theta"), expected, atol=0.8)


def test_hierarchical_regression_agrees_with_restricted_likelihood(tmp_path):
    module, posterior = run("hierarchical_regression", tmp_path)
    design = np.stack([np.ones_like(module.CENTRED), module.CENTRED], axis=1).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimiser's own
        fit = MixedLM(module.LOG_INVESTMENT.astype(float), design, module.FIRM, exog_re=design).fit()
    assert mean_of(posterior, "level") == pytest.approx(fit.fe_params[0], abs=0.25)
    assert mean_of(posterior, "elasticity") == pytest.approx(fit.fe_params[1], abs=0.1)
    assert mean_of(posterior, "noise") == pytest.approx(np.sqrt(fit.scale), abs=0.03)
    alone, pooled = module.separate_elasticities(), mean_of(posterior, "b")
    assert pooled.std() < 0.7 * alone.std()
    assert np.corrcoef(alone, pooled)[0, 1] > 0.85


def test_logistic_regression_agrees_with_a_penalised_fit(tmp_path):
    """The mode for the prior's scale at its posterior mean lies near the posterior mean."""
    module, posterior = run("logistic_regression", tmp_path, "logistic_regression", "logistic_regression_held_out")
    seen, scale = ~module.HELD_OUT, float(mean_of(posterior, "scale"))
    fit = LogisticRegression(C=scale**2, max_iter=2000).fit(module.X[seen], module.MALIGNANT[seen])
    beta = np.asarray(posterior.draws["beta"])
    off = np.abs(beta.mean(axis=(0, 1)) - fit.coef_[0]) / beta.std(axis=(0, 1))
    assert off.max() < 0.7, off
    ours = module.probabilities(posterior, module.X[module.HELD_OUT])
    theirs = fit.predict_proba(module.X[module.HELD_OUT])[:, 1]
    assert np.abs(ours - theirs).mean() < 0.02
    assert ((ours > 0.5) == module.MALIGNANT[module.HELD_OUT]).mean() > 0.95


@pytest.mark.slow
def test_mixture_recovers_the_labels_that_it_was_not_told(tmp_path):
    with jax.numpy_rank_promotion("allow"):  # NumPyro's Categorical promotes ranks when it samples
        module, posterior = run("mixture", tmp_path)
    probabilities = module.label_probabilities(posterior)
    assert (probabilities.argmax(axis=1) == module.TRUTH).mean() > 0.94
    members = [module.WINES[np.equal(module.TRUTH, k)].mean(axis=0) for k in range(3)]
    np.testing.assert_allclose(mean_of(posterior, "mean"), members, atol=0.25)
    assert "label" in posterior.remarks[0]


def smoothed(returns, stay, sds):
    """The probabilities of regime 1 by the forward-backward algorithm; the day before the first was in regime 0."""
    transition = np.array([[stay[0], 1 - stay[0]], [1 - stay[1], stay[1]]])
    likelihood = np.exp(-0.5 * (returns[:, None] / sds) ** 2) / sds
    forward, backward, before = np.zeros((len(returns), 2)), np.ones((len(returns), 2)), np.array([1.0, 0.0])
    for t, row in enumerate(likelihood):
        before = (before @ transition) * row
        before = forward[t] = before / before.sum()
    for t in range(len(returns) - 2, -1, -1):
        backward[t] = transition @ (likelihood[t + 1] * backward[t + 1])
        backward[t] /= backward[t].sum()
    both = forward * backward
    return both[:, 1] / both.sum(axis=1)


@pytest.mark.slow
def test_hmm_agrees_with_forward_backward_and_a_regime_switching_fit(tmp_path):
    module, posterior = run("hmm", tmp_path)
    stay, calm, ratio = (np.asarray(posterior.draws[a], float) for a in ("stay", "calm_sd", "ratio"))
    fit = MarkovRegression(module.RETURNS.astype(float), 2, trend="n", switching_variance=True).fit()
    expected = np.sqrt(np.sort(fit.params[-2:]))
    np.testing.assert_allclose([calm.mean(), (calm * ratio).mean()], expected, atol=0.06)
    places = [(c, d) for c in range(4) for d in range(0, stay.shape[1], 10)]
    exact = [smoothed(module.RETURNS, stay[p], calm[p] * np.array([1.0, ratio[p]])) for p in places]
    np.testing.assert_allclose(module.nervous(posterior), np.mean(exact, axis=0), atol=0.09)


@pytest.mark.slow
def test_gaussian_process_forecasts_what_it_has_not_seen(tmp_path):
    module, posterior = run("gaussian_process", tmp_path)
    curves, truth = module.predicted(posterior), module.CO2 + module.LEVEL
    low, high = np.quantile(curves, [0.05, 0.95], axis=0)
    inside = (low < truth) & (truth < high)
    assert inside[module.SEEN].mean() > 0.85
    assert inside[~module.SEEN].mean() > 0.6
    assert np.abs(curves.mean(axis=0) - truth)[~module.SEEN].max() < 2.0
