"""Estimates of metrics: exact for normal targets, finite for every window."""

import numpy as np
import pytest

from ppl.numerics import metric_estimates
from ppl.numerics.metric import Metric
from ppl.numerics.metric_estimates import Window, estimate
from ppl.numerics.metric_on_host import original_gradients

DIM = 4


def blank(capacity, dim=DIM):
    return Metric(np.zeros(dim), np.ones(dim), np.zeros((capacity, dim)), np.zeros(capacity), np.int32(0))


def inverse_mass(metric):
    """L L^T with L = S (I + U^T s U)."""
    rows, s = metric.directions[: metric.rank], metric.stretch[: metric.rank]
    root = np.diag(metric.scale) @ (np.eye(len(metric.scale)) + rows.T @ np.diag(s) @ rows)
    return root @ root.T


def normal_window(rng, covariance, draws):
    """Draws and gradients; the gradient of a normal log density is linear."""
    x = rng.normal(size=(draws, len(covariance))) @ np.linalg.cholesky(covariance).T + 0.5
    return Window(x, -np.linalg.solve(covariance, (x - 0.5).T).T)


def some_covariance(rng, dim=DIM):
    root = rng.normal(size=(dim, dim)) * 10.0 ** np.linspace(-2, 1, dim)[:, None]
    return root @ root.T


@pytest.fixture
def _unshrunk(monkeypatch):
    monkeypatch.setattr(metric_estimates, "PSEUDO_DRAWS", 0.0)


@pytest.mark.usefixtures("_unshrunk")
def test_exact_for_a_normal_target_with_few_draws(rng):
    covariance = some_covariance(rng)
    found = estimate(normal_window(rng, covariance, DIM + 2), blank(DIM), cutoff=1.0)
    assert found.rank == DIM
    np.testing.assert_allclose(inverse_mass(found), covariance, rtol=1e-6)


@pytest.mark.usefixtures("_unshrunk")
def test_the_geometric_mean_solves_its_equation(rng):
    """M C_g M = C_x for any window, not a normal one alone."""
    window = Window(rng.normal(size=(9, DIM)) ** 3, rng.exponential(size=(9, DIM)))
    inverse = inverse_mass(estimate(window, blank(DIM), cutoff=1.0))
    cov_x, cov_g = (np.cov(part.T, bias=True) for part in window)
    np.testing.assert_allclose(inverse @ cov_g @ inverse, cov_x, atol=1e-9 * cov_x.max(), rtol=1e-6)


def test_shrunk_estimates_approach_it(rng):
    covariance = some_covariance(rng)
    found = estimate(normal_window(rng, covariance, 2000), blank(DIM), cutoff=1.0)
    np.testing.assert_allclose(inverse_mass(found), covariance, atol=0.03 * np.max(covariance))


@pytest.mark.parametrize("power", [0, 6, -6])
def test_the_diagonal_formula(power, rng):
    sizes = 10.0**power * np.array([0.01, 1.0, 3.0, 100.0])
    window = normal_window(rng, np.diag(sizes**2), 5)
    found = estimate(window, blank(0))
    np.testing.assert_allclose(found.scale, sizes, rtol=1e-9)
    other = Window(window.draws, rng.normal(size=(5, DIM)) / sizes)
    formula = (other.draws.var(0) / other.gradients.var(0)) ** 0.25
    np.testing.assert_allclose(estimate(other, blank(0)).scale, formula, rtol=1e-12)
    assert found.rank == 0


def rotated(rng, eigenvalues):
    basis = np.linalg.qr(rng.normal(size=(len(eigenvalues),) * 2))[0]
    return basis @ np.diag(eigenvalues) @ basis.T, basis


@pytest.mark.usefixtures("_unshrunk")
def test_eigenvalues_near_one_are_dropped(rng, monkeypatch):
    covariance, basis = rotated(rng, np.array([9.0, 1.5, 1.0, 0.2]))
    monkeypatch.setattr(metric_estimates, "_diagonal_scale", lambda window: np.ones(DIM))
    found = estimate(normal_window(rng, covariance, 12), blank(DIM), cutoff=2.0)
    assert found.rank == 2
    order = np.argsort(found.stretch[:2])
    np.testing.assert_allclose(found.stretch[:2][order], [np.sqrt(0.2) - 1, 2.0], rtol=1e-6)
    np.testing.assert_allclose(np.abs(found.directions[:2][order] @ basis[:, [3, 0]]), np.eye(2), atol=1e-6)
    assert not found.directions[2:].any()


@pytest.mark.usefixtures("_unshrunk")
def test_the_capacity_keeps_what_is_farthest_from_one(rng, monkeypatch):
    covariance, basis = rotated(rng, np.array([9.0, 3.0, 1.0, 0.05]))
    monkeypatch.setattr(metric_estimates, "_diagonal_scale", lambda window: np.ones(DIM))
    found = estimate(normal_window(rng, covariance, 12), blank(1))
    assert found.rank == 1
    np.testing.assert_allclose(np.abs(found.directions[0] @ basis[:, 3]), 1.0, atol=1e-6)


@pytest.mark.usefixtures("_unshrunk")
def test_the_span_of_draws_is_as_good_as_all_of_it(rng, monkeypatch):
    """Beyond `FULL` dimensions; here both ways of one window that spans everything."""
    covariance = some_covariance(rng)
    window = normal_window(rng, covariance, 12)
    full = estimate(window, blank(DIM), cutoff=1.0)
    monkeypatch.setattr(metric_estimates, "FULL", 1)
    np.testing.assert_allclose(inverse_mass(estimate(window, blank(DIM), cutoff=1.0)), inverse_mass(full), rtol=1e-5)


def test_a_large_target_in_the_span_of_few_draws(rng, monkeypatch):
    dim = 40
    monkeypatch.setattr(metric_estimates, "FULL", 10)
    metric = estimate(normal_window(rng, np.diag(np.linspace(1, 5, dim)), 8), blank(6, dim))
    rows = metric.directions[: metric.rank]
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-9)
    assert np.isfinite(inverse_mass(metric)).all()


DEGENERATE = {
    "one point": lambda rng: np.tile(rng.normal(size=DIM), (6, 1)),
    "two points": lambda rng: np.repeat(rng.normal(size=(2, DIM)), 10, axis=0),
    "a line": lambda rng: np.outer(np.arange(20.0), rng.normal(size=DIM)),
    "a constant column": lambda rng: rng.normal(size=(20, DIM)) * np.array([1.0, 0.0, 1.0, 1.0]),
    "two draws": lambda rng: rng.normal(size=(2, DIM)),
    "tiny and huge": lambda rng: rng.normal(size=(20, DIM)) * np.array([1e-30, 1e30, 1.0, 1e-12]),
}
SLOPES = {
    "linear": lambda x: -x,
    "flat": np.zeros_like,
    "steep": lambda x: -1e15 * x,
    "rough": lambda x: np.sign(x) * 10.0 ** np.array([0, 10, 20, 30]),
}


@pytest.mark.parametrize("draws", list(DEGENERATE))
@pytest.mark.parametrize("slope", list(SLOPES))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_degenerate_windows_give_finite_metrics(draws, slope, dtype, rng):
    x = DEGENERATE[draws](rng)
    start = Metric(*(np.asarray(part, dtype if np.asarray(part).dtype.kind == "f" else None) for part in blank(DIM)))
    metric = estimate(Window(x, SLOPES[slope](x)), start, cutoff=1.0)
    assert all(np.asarray(part).dtype == dtype for part in metric[:4])
    assert all(np.isfinite(part).all() for part in metric)
    assert (metric.scale > 0).all()
    assert (metric.stretch[: metric.rank] > -1).all()
    assert np.isfinite(original_gradients(metric, np.ones((2, DIM)))).all()


def test_original_gradients_undo_the_metric(rng):
    metric = estimate(normal_window(rng, some_covariance(rng), 30), blank(2))
    assert metric.rank > 0
    rows, s = metric.directions[: metric.rank], metric.stretch[: metric.rank]
    root = np.diag(metric.scale) @ (np.eye(DIM) + rows.T @ np.diag(s) @ rows)
    gradients = rng.normal(size=(3, DIM))
    np.testing.assert_allclose(original_gradients(metric, gradients @ root), gradients, rtol=1e-9)
