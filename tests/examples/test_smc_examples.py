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
