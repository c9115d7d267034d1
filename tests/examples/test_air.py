"""Attend, infer, repeat: the guide learns to count with a good estimator at the coins, and not with a bad one."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "air.py"


@pytest.fixture(scope="module")
def air():
    spec = importlib.util.spec_from_file_location("examples_air", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_measure_valued_coins_learn_to_count(air, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    assert air.main("measure_valued", quick=True, folder=str(tmp_path)) > 0.9
    assert (tmp_path / "air.png").stat().st_size > 10_000
