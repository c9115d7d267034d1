"""Quantiles of weighted points, on the host.

Law: with equal weights they are the inverse of the empirical distribution function (`numpy.quantile` with
`method="inverted_cdf"`).
"""

import numpy as np
from jaxtyping import Float, Num


def weighted_quantiles(
    points: Num[np.ndarray, "steps particles ..."],
    weights: Float[np.ndarray, "steps particles"],
    probs: Num[np.ndarray, "probs"],
) -> Num[np.ndarray, "probs steps ..."]:
    """The least point up to which the weights sum to a probability, for each probability and step.

    Args:
        points: The points; trailing axes are taken element by element.
        weights: Normalised along the particles.
        probs: Probabilities in [0, 1].

    Raises:
        ValueError: a probability lies outside.

    Examples:
        >>> weighted_quantiles(np.array([[3.0, 1.0, 2.0]]), np.array([[0.5, 0.2, 0.3]]), np.array([0.1, 0.5, 0.9])).T
        array([[1., 2., 3.]])
    """
    if not ((probs >= 0.0) & (probs <= 1.0)).all():
        raise ValueError(f"The probabilities are {probs}.\nExpected: numbers from 0 to 1.")
    flat = points.reshape(*points.shape[:2], -1)
    order = np.argsort(flat, axis=1, kind="stable")
    ordered = np.take_along_axis(flat, order, axis=1)
    reached = np.cumsum(np.take_along_axis(weights[..., None], order, axis=1), axis=1)
    reached /= reached[:, -1:]
    wanted = [
        max(prob * (1.0 - 1e-12), 1e-300) for prob in probs
    ]  # a rounding error below, and never a point of weight 0
    rows = [np.argmax(reached >= prob, axis=1) for prob in wanted]
    found = [np.take_along_axis(ordered, row[:, None], axis=1)[:, 0] for row in rows]
    return np.stack(found).reshape(len(probs), points.shape[0], *points.shape[2:])
