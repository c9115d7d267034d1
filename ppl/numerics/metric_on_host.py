"""A metric's changes of coordinates on the host, in double precision: what `ppl.numerics.metric` does in compiled code.

    x = c + S (I + U^T s U) z,        g_z = (I + U^T s U) S g_x,        (I + U^T s U)^-1 = I + U^T (1/(1 + s) - 1) U

Arrays have any leading axes before the dimension.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from ppl.numerics.metric import Metric

Vectors = Float[Any, "... dim"]
Doubles = Float[np.ndarray, "... dim"]


def positions(metric: Metric, coordinates: Vectors) -> Doubles:
    """X of z."""
    return _double(metric.center) + _double(metric.scale) * _stretched(metric, _double(coordinates))


def coordinates_of(metric: Metric, places: Vectors) -> Doubles:
    """The coordinates z of positions x."""
    return _shrunk(metric, (_double(places) - _double(metric.center)) / _double(metric.scale))


def pulled_gradients(metric: Metric, gradients: Vectors) -> Doubles:
    """Gradients with respect to coordinates, of those with respect to positions."""
    return _stretched(metric, _double(metric.scale) * _double(gradients))


def original_gradients(metric: Metric, gradients: Vectors) -> Doubles:
    """Gradients with respect to positions, of those with respect to coordinates."""
    return _shrunk(metric, _double(gradients)) / _double(metric.scale)


def _stretched(metric: Metric, vectors: Doubles) -> Doubles:
    rows, stretch = _directions(metric)
    return vectors + (vectors @ rows.T * stretch) @ rows


def _shrunk(metric: Metric, vectors: Doubles) -> Doubles:
    rows, stretch = _directions(metric)
    return vectors + (vectors @ rows.T * (1.0 / (1.0 + stretch) - 1.0)) @ rows


def _directions(metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """The rows in use and how far each is stretched."""
    rank = int(metric.rank)
    return _double(metric.directions)[:rank], _double(metric.stretch)[:rank]


def _double(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64)
