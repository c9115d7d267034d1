r"""The way uphill by L-BFGS, and a Gaussian at every point of it: what Pathfinder chooses from.

A `Curvature` is an estimate of the inverse of minus the Hessian, diagonal plus low rank, from the last pairs of steps
s = x' - x and changes z = g - g' of the gradient:

    H = diag(a) + B C B^T,   B = [diag(a) Z, S],   C = [[0, -R^-1], [-R^-T, R^-T (E + Z^T diag(a) Z) R^-1]]

with R the upper triangle of S^T Z and E its diagonal. Law: H Z = S in the last column (the secant equation), and H is
positive definite, since only pairs with s . z > 0 are taken; the line search makes such pairs. All on the host, in
double precision: an iteration costs little more than its gradient, and nothing but the density is compiled.

References: Zhang, Carpenter, Gelman, Vehtari (2022), *Pathfinder*, algorithms 2-4; Byrd, Nocedal, Schnabel (1994), for
the compact form; Lewis & Overton (2013), *Nonsmooth optimization via quasi-Newton methods*, algorithm 2.6.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

HISTORY = 6
"""Pairs that a curvature remembers."""
MOST_STEPS = 300
SEARCHES = 40
"""The most points that a line search tries."""
SUFFICIENT, FLAT = 1e-4, 0.9
"""Wolfe's constants: the share of the promised ascent that must be had, and of the slope that may be left."""
STALLED = 1e-7
"""The path ends where a step gains less than this share of the log density."""

Evaluate = Callable[[Float[np.ndarray, "dim"]], tuple[float, Float[np.ndarray, "dim"]]]
"""From a position to the log density (nats) and its gradient."""


class Height(NamedTuple):
    """A position with its log density (nats) and gradient."""

    position: Float[np.ndarray, "dim"]
    log_density: float
    gradient: Float[np.ndarray, "dim"]

    @property
    def sound(self) -> bool:
        """Whether density and gradient are finite."""
        return bool(np.isfinite(self.log_density) and np.isfinite(self.gradient).all())


class Curvature(NamedTuple):
    """The diagonal, and the last pairs, the oldest first."""

    diagonal: Float[np.ndarray, "dim"]
    steps: Float[np.ndarray, "pairs dim"]
    changes: Float[np.ndarray, "pairs dim"]

    def parts(self) -> tuple[Float[np.ndarray, "dim twice"], Float[np.ndarray, "twice twice"]]:
        """B and C."""
        wide, pairs = self.diagonal * self.changes, self.steps @ self.changes.T
        inverse = np.linalg.inv(np.triu(pairs)) if len(pairs) else pairs
        corner = inverse.T @ (np.diag(np.diag(pairs)) + self.changes @ wide.T) @ inverse
        return np.concatenate([wide, self.steps]).T, np.block([[np.zeros_like(pairs), -inverse], [-inverse.T, corner]])

    def times(self, vector: Float[np.ndarray, "dim"]) -> Float[np.ndarray, "dim"]:
        """H times a vector."""
        tall, small = self.parts()
        return self.diagonal * vector + tall @ (small @ (tall.T @ vector))

    def grown(self, step: Float[np.ndarray, "dim"], change: Float[np.ndarray, "dim"]) -> "Curvature":
        """With one pair more; the same where the pair has no positive curvature."""
        slope, square = step @ change, change @ change
        if not slope > 1e-10 * square:
            return self
        a = self.diagonal
        weighted, inverse = change @ (a * change), step @ (step / a)
        # The diagonal of the BFGS update of the inverse (Gilbert & Lemarechal 1989, as in Pathfinder, algorithm 3).
        diagonal = 1.0 / (weighted / (slope * a) + change**2 / slope - weighted * step**2 / (slope * inverse * a**2))
        steps, changes = (
            np.concatenate([x, y[None]])[-HISTORY:] for x, y in zip(self[1:], (step, change), strict=True)
        )
        return Curvature(diagonal, steps, changes)


class Gaussian(NamedTuple):
    """Normal(x + H g, H) at a point of the path, as a map of standard normal noise.

    noise -> mean + sqrt(a) (noise + Q (L - 1) Q^T noise), with Q R = B / sqrt(a) and L L^T = 1 + R C R^T.
    """

    mean: Float[np.ndarray, "dim"]
    scale: Float[np.ndarray, "dim"]
    basis: Float[np.ndarray, "dim rank"]
    factor: Float[np.ndarray, "rank rank"]

    def draws(
        self, noise: Float[np.ndarray, "draws dim"]
    ) -> tuple[Float[np.ndarray, "draws dim"], Float[np.ndarray, "draws"]]:
        """Draws and their log densities (nats)."""
        turned = noise + (noise @ self.basis) @ (self.factor - np.eye(len(self.factor))).T @ self.basis.T
        log_det = np.log(self.scale).sum() + np.log(np.diag(self.factor)).sum()
        log_density = -0.5 * (noise**2).sum(axis=1) - log_det - 0.5 * noise.shape[1] * np.log(2 * np.pi)
        return self.mean + self.scale * turned, log_density

    def log_density(self, places: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, "draws"]:
        """Log densities (nats) at any places: the map is turned back to the noise."""
        turned = (places - self.mean) / self.scale
        inward = np.linalg.inv(self.factor) - np.eye(len(self.factor))
        noise = turned + (turned @ self.basis) @ inward.T @ self.basis.T
        log_det = np.log(self.scale).sum() + np.log(np.diag(self.factor)).sum()
        return -0.5 * (noise**2).sum(axis=1) - log_det - 0.5 * noise.shape[1] * np.log(2 * np.pi)


def gaussian_at(height: Height, curvature: Curvature) -> Gaussian | None:
    """The Gaussian at a point of the path; None where rounding leaves no positive definite one."""
    tall, small = curvature.parts()
    scale = np.sqrt(curvature.diagonal)
    try:
        basis, upper = np.linalg.qr(tall / scale[:, None])
        factor = np.linalg.cholesky(np.eye(len(upper)) + upper @ small @ upper.T)
    except np.linalg.LinAlgError:
        return None
    return Gaussian(height.position + curvature.times(height.gradient), scale, basis, factor)


def path(evaluate: Evaluate, start: Height) -> Iterator[tuple[Height, Curvature]]:
    """The points of the way uphill, each with what is known of the curvature there; the start is not among them.

    Args:
        evaluate: Log density (nats) and gradient of a position; it may be infinite or NaN anywhere but at the start.
        start: A sound point.

    Examples:
        >>> def normal(x):
        ...     return float(-0.5 * np.sum(((x - 3.0) / [1.0, 100.0]) ** 2)), -(x - 3.0) / np.array([1.0, 1e4])
        >>> begin = np.array([20.0, -500.0])
        >>> *_, (last, curvature) = path(normal, Height(begin, *normal(begin)))
        >>> last.position.round(2).tolist()
        [3.0, 3.0]
        >>> bool(9000 < curvature.times(np.array([0.0, 1.0]))[1] < 11000)
        True
    """
    here, nothing = start, np.zeros((0, len(start.position)))
    curvature = Curvature(np.ones(len(start.position)), nothing, nothing)
    for _ in range(MOST_STEPS):
        along = curvature.times(here.gradient)
        if not len(curvature.steps):
            along = along / max(1.0, float(np.linalg.norm(along)))
        ahead = _searched(evaluate, here, along)
        if ahead is None:
            return
        curvature = curvature.grown(ahead.position - here.position, here.gradient - ahead.gradient)
        gain, here = ahead.log_density - here.log_density, ahead
        yield here, curvature
        if gain < STALLED * (1.0 + abs(here.log_density)):
            return


def _searched(evaluate: Evaluate, here: Height, along: Float[np.ndarray, "dim"]) -> Height | None:
    """A point along a direction that meets Wolfe's weak conditions, by doubling and bisection; None: there is none.

    A point whose density is not finite is too far.
    """
    slope, near, far, size = float(here.gradient @ along), 0.0, np.inf, 1.0
    if not slope > 0.0:
        return None
    for _ in range(SEARCHES):
        position = here.position + size * along
        ahead = Height(position, *evaluate(position))
        if not (ahead.sound and ahead.log_density > here.log_density + SUFFICIENT * size * slope):
            far = size
        elif ahead.gradient @ along > FLAT * slope:
            near = size
        else:
            return ahead
        size = 2.0 * near if np.isinf(far) else 0.5 * (near + far)
    return None
