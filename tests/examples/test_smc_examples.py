"""The examples with particles: a filter beats its sensors, and steered texts have fewer letters too many."""

import importlib.util
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
def _no_display(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")


@pytest.mark.slow
def test_the_filter_is_nearer_to_the_truth_than_the_readings(tmp_path):
    module = loaded("tracking")
    posterior = module.main(quick=True, folder=str(tmp_path))
    assert (tmp_path / "tracking.png").stat().st_size > 10_000
    path, ranges, bearings = map(np.asarray, module.simulated(3))
    alone = ranges[:, None] * np.stack([np.sin(bearings), np.cos(bearings)], axis=1)
    error, error_alone = (
        np.sqrt(((x - path) ** 2).sum(axis=1).mean()) for x in (posterior.history.moments("position").mean, alone)
    )
    assert error < 0.5 * error_alone
    assert np.isfinite(posterior.log_evidence.estimate)


@pytest.mark.slow
def test_particles_write_fewer_letters_too_many_than_the_best_of_as_many_texts(tmp_path):
    found = loaded("steering").main(quick=True, folder=str(tmp_path))
    assert (tmp_path / "steering.png").stat().st_size > 10_000
    assert (np.array(found["particles"]) < found["best of N"]).all(), found


def test_the_economy_calmed_down_about_1984(tmp_path, capsys):
    """The change of regime, and its evidence against none; the one without changes has an exact one, by quadrature."""
    module = loaded("great_moderation")
    posterior = module.main(quick=True, folder=str(tmp_path))
    assert (tmp_path / "great_moderation.png").stat().st_size > 10_000
    chance = posterior.resample(0).draws["change"][0].mean(axis=0)
    assert module.around(chance, 1982.0, 1986.0) > 0.5
    spread = posterior.history.moments("spread").mean
    assert spread[module.TIME > 1990][:-8].mean() < 0.75 * spread[module.TIME < 1980].mean()
    without = float(capsys.readouterr().out.split("without       log evidence ")[1].split(" ")[0])
    assert without == pytest.approx(without_changes(module.GROWTH.astype(float)), abs=2.5)
    assert posterior.log_evidence.estimate > without + 10.0


def without_changes(growth):
    """Log evidence of one mean and one standard deviation for all quarters, by a fine grid."""
    mean, log_sd = np.meshgrid(np.linspace(-0.5, 2.0, 400), np.linspace(-1.0, 1.0, 400), indexing="ij")
    square = ((growth[:, None, None] - mean) ** 2).sum(axis=0)
    likelihood = -0.5 * square / np.exp(2 * log_sd) - len(growth) * (log_sd + 0.5 * np.log(2 * np.pi))
    prior = -0.5 * ((mean - 0.75) / 0.5) ** 2 - 0.5 * ((log_sd + 0.2) / 0.6) ** 2 - np.log(0.5 * 0.6 * 2 * np.pi)
    return np.log(np.sum(np.exp(likelihood + prior + 270.0)) * (2.5 / 399) * (2.0 / 399)) - 270.0
