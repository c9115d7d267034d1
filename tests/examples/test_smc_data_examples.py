"""The examples of sequential Monte Carlo: their answers are the known ones, and data that are missing are an error."""

import importlib.util
import subprocess
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _as_a_script(monkeypatch):
    """Examples import each other, and draw without a display."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("MPLBACKEND", "Agg")


@pytest.fixture
def evidence():
    """The example, where its data can be had."""
    module = loaded("logistic_evidence")
    try:
        module.particles_data.wheel()
    except module.particles_data.DataUnavailableError as error:
        pytest.skip(f"The data cannot be downloaded: {error}")
    return module


# --- data -------------------------------------------------------------------------------------------------------------


def test_without_a_network_the_data_say_what_to_do(monkeypatch, tmp_path):
    data = loaded("particles_data")

    def offline(command, **_):
        raise subprocess.CalledProcessError(1, command, stderr="ERROR: No matching distribution found")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(data.subprocess, "run", offline)
    with pytest.raises(data.DataUnavailableError, match="No matching distribution(.|\n)*go online, or put"):
        data.pounds_for_a_dollar()


def test_another_file_is_refused(monkeypatch, tmp_path):
    data = loaded("particles_data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "quasiborel" / data.WHEEL
    path.parent.mkdir()
    path.write_bytes(b"something else")
    with pytest.raises(data.DataUnavailableError, match="expected SHA-256"):
        data.pima()


@pytest.mark.slow
def test_data_have_the_shapes_and_scales_that_the_references_are_for(evidence):
    data = evidence.particles_data
    for load, shape in ((data.pima, (768, 9)), (data.sonar, (208, 61)), (data.eeg, (14980, 15))):
        signed = load()
        assert signed.shape == shape
        np.testing.assert_allclose(np.abs(signed[:, 0]), 1.0)
        np.testing.assert_allclose((signed[:, 1:] * signed[:, :1]).mean(axis=0), 0.0, atol=1e-9)
        np.testing.assert_allclose((signed[:, 1:] * signed[:, :1]).std(axis=0), 0.5)


# --- stochastic volatility --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stochastic_volatility(tmp_path):
    module = loaded("stochastic_volatility")
    posterior = module.main(quick=True, folder=str(tmp_path))
    assert (tmp_path / "stochastic_volatility.png").stat().st_size > 10_000
    assert posterior.log_evidence.estimate == pytest.approx(-492.454, abs=1.5)
    low, middle, high = posterior.history.quantiles("step/volatility", (0.05, 0.5, 0.95))
    assert middle.shape == (750,)
    assert (np.abs(module.RETURNS) < 1.645 * middle).mean() == pytest.approx(0.9, abs=0.05)
    assert (low < middle).all()
    assert (middle < high).all()


@pytest.mark.slow
def test_a_forecast_goes_back_to_the_stationary_law():
    module = loaded("stochastic_volatility")
    best = next(iter(module.REFERENCES))
    log_variance = 2.0 * np.log(module.forecast(best, 20_000))
    assert log_variance.shape == (20_000, module.AHEAD)
    first, last = log_variance[:, 0].mean() - best.mu, log_variance[:, -1].mean() - best.mu
    assert last == pytest.approx(first * best.rho ** (module.AHEAD - 1), abs=0.05)
    limit = best.sigma / np.sqrt(1.0 - best.rho**2)
    assert log_variance[:, 0].std() < 0.7 * limit
    assert 0.9 * limit < log_variance[:, -1].std() < 1.05 * limit


# --- evidence of logistic regressions ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pima", "sonar", "eeg"])
def test_logistic_evidence(evidence, name):
    posterior = evidence.main(quick=True, names=(name,))[name]
    estimate, error = posterior.log_evidence
    reference = evidence.REFERENCES[name]
    assert error < 1.0
    assert abs(estimate - reference.log_evidence) < 4 * np.hypot(error, reference.error)
