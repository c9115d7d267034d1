"""The examples of random functions run, and what they print is about the data."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _small_figures_without_a_display(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")


@pytest.mark.filterwarnings("ignore::ppl.errors.ConvergenceWarning")  # a quick run has not mixed, and says so
@pytest.mark.slow
def test_dirichlet_process(tmp_path):
    picture = tmp_path / "density.png"
    result = loaded("dirichlet_process").main(quick=True, path=str(picture))
    assert picture.stat().st_size > 10_000
    curves, step = result["curves"], result["grid"][1] - result["grid"][0]
    assert curves.shape == (80, 281)
    np.testing.assert_allclose(curves.sum(axis=1) * step, 1.0, atol=0.05)
    mean = (curves * np.asarray(result["grid"])).sum(axis=1) * step
    assert abs(mean.mean() - 20.83) < 2.5  # the mean of the data


def test_dirichlet_process_has_no_truncation(key):
    """The drawn density goes on past its explicit atoms: with all of them at the far right, the tail holds the rest."""
    module = loaded("dirichlet_process")
    program = module.galaxies(np.array([20.0, 21.0], np.float32))
    choices = program.simulate(key).choices
    pushed = {**choices, "head/part": choices["head/part"] * 0 + 0.05, "head/mean": choices["head/mean"] * 0 + 500.0}
    f = program.replay(pushed).value
    grid = np.linspace(-60.0, 100.0, 1601, dtype=np.float32)
    mass = np.asarray(jax.jit(f)(grid)).sum() * 0.1
    np.testing.assert_allclose(mass, 0.95**module.HEAD, atol=0.02)


@pytest.mark.slow
def test_random_features(tmp_path):
    picture = tmp_path / "curves.png"
    result = loaded("random_features").main(quick=True, path=str(picture))
    assert picture.stat().st_size > 10_000
    mean = result["curves"].mean(axis=0)
    assert mean.shape == (100,)
    assert mean[:25].mean() > mean[40:].mean() + 100.0  # the flow fell about 1898


def test_random_features_sums_its_weights_out_exactly(key):
    """The factor is the normal law of the flows; scipy's dense covariance is the oracle."""
    module = loaded("random_features")
    flow = np.array(module.FLOW.split(), np.float32)[:12]
    years = module.FIRST_YEAR + np.arange(12, dtype=np.float32)
    program = module.nile(years, flow, 5)
    trace = program.simulate(key)
    waves, scale, _ = trace.value.args
    design = np.asarray(module.features(waves, scale, years), np.float64)
    covariance = design @ design.T + float(trace.choices["noise"]) ** 2 * np.eye(12)
    expected = multivariate_normal(np.full(12, module.LEVEL), covariance).logpdf(flow)
    np.testing.assert_allclose(trace.log_weight, expected, rtol=1e-4)
