r"""Estimates of a metric from draws and gradients of a warm-up window, on the host in double precision.

The metric that minimises the Fisher divergence to a standard normal is, for an inverse mass matrix M, the geometric
mean of the covariance of the draws and the inverse covariance of the gradients:

    diagonal:  M_ii = sqrt(var(x_i) / var(g_i)),          dense:  M = C_x # C_g^{-1}, the solution of M C_g M = C_x.

For a normal target both are exact whatever the number of draws (above the dimension), since its gradient is linear;
dense ones are then shrunk towards the diagonal by `PSEUDO_DRAWS`.
The low-rank estimate keeps the eigenvectors of M, after diagonal scaling, whose eigenvalues are far from one.

Reference: Seyboldt, Carlson, Carpenter (2026), *Preconditioning Hamiltonian Monte Carlo by minimizing Fisher
divergence*.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ppl.numerics.metric import Metric

CUTOFF = 1.25
"""Eigenvalues between 1 / CUTOFF and CUTOFF count as one: nearer to one, a direction costs more than it gains."""
PSEUDO_DRAWS = 5.0
"""The weight of the identity in covariances, in draws."""
FULL = 512
"""Up to this dimension covariances are dense matrices; beyond it they live in the span of the draws and gradients."""
TINY = 1e-20
"""Variances are kept above it."""
WIDEST = 1e6
"""Eigenvalues are kept between its inverse and it."""


class Window(NamedTuple):
    """What one chain visited in a window: positions and gradients in the original coordinates."""

    draws: Float[np.ndarray, "draws dim"]
    gradients: Float[np.ndarray, "draws dim"]


def estimate(window: Window, metric: Metric, cutoff: float = CUTOFF) -> Metric:
    """The metric of a window, with as many directions as there are to keep and room for; the center is left alone.

    Args:
        window: At least two draws.
        metric: The present metric; its capacity bounds the number of directions (0: diagonal).
        cutoff: Eigenvalues nearer to one than by this factor are taken to be one.
    """
    scale = _diagonal_scale(window)
    if metric.directions.shape[0] == 0 or len(window.draws) < 3:
        return metric._replace(scale=_cast(metric, scale), rank=np.int32(0))
    draws = (window.draws - window.draws.mean(0)) / scale
    gradients = (window.gradients - window.gradients.mean(0)) * scale
    try:
        values, vectors = _eigen(draws, gradients)
    except np.linalg.LinAlgError:  # a window with gradients of very many orders of magnitude: no directions yet
        return metric._replace(scale=_cast(metric, scale), rank=np.int32(0))
    return _kept(metric, scale, values, vectors, cutoff)


def _diagonal_scale(window: Window) -> Float[np.ndarray, "dim"]:
    spread, steepness = window.draws.var(0), window.gradients.var(0)
    known = (spread > TINY) & (steepness > TINY) & np.isfinite(spread) & np.isfinite(steepness)
    ratio = np.where(known, spread, 1.0) / np.where(known, steepness, 1.0)
    return np.clip(ratio, TINY**2, TINY**-2) ** 0.25


def _eigen(draws: np.ndarray, gradients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of the geometric mean, and eigenvectors as rows."""
    if draws.shape[1] <= FULL:
        values, columns = _geometric_mean_eigen(_covariance(draws), _covariance(gradients))
        return values, columns.T
    basis = np.linalg.qr(np.concatenate([draws, gradients]).T)[0]
    values, columns = _geometric_mean_eigen(_covariance(draws @ basis), _covariance(gradients @ basis))
    return values, (basis @ columns).T


def _covariance(centred: np.ndarray) -> np.ndarray:
    count = len(centred)
    return (centred.T @ centred + PSEUDO_DRAWS * np.eye(centred.shape[1])) / (count + PSEUDO_DRAWS)


def _geometric_mean_eigen(cov: np.ndarray, steepness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors (columns) of A # B^{-1} = L^{-T} (L^T A L)^{1/2} L^{-1} with B = L L^T."""
    root = np.linalg.cholesky(steepness)
    squares, vectors = np.linalg.eigh(root.T @ cov @ root)
    half = np.linalg.solve(root.T, vectors * np.maximum(squares, TINY) ** 0.25)
    values, columns = np.linalg.eigh(half @ half.T)
    return np.clip(values, 1 / WIDEST, WIDEST), columns


def _kept(metric: Metric, scale: np.ndarray, values: np.ndarray, vectors: np.ndarray, cutoff: float) -> Metric:
    capacity, dim = metric.directions.shape
    distance = np.abs(np.log(values))
    order = np.argsort(-distance)[:capacity]
    order = order[distance[order] >= np.log(cutoff)]
    directions, stretch = np.zeros((capacity, dim)), np.zeros(capacity)
    directions[: len(order)] = vectors[order]
    stretch[: len(order)] = np.sqrt(values[order]) - 1.0
    return metric._replace(
        scale=_cast(metric, scale),
        directions=_cast(metric, directions),
        stretch=_cast(metric, stretch),
        rank=np.int32(len(order)),
    )


def _cast(metric: Metric, values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.asarray(metric.scale).dtype)
