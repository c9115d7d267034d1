r"""Monotone rational-quadratic splines: bijections of the line, the identity outside [-BOUND, BOUND].

Between the knots $(x_k, y_k)$ with derivatives $d_k$, with $w, h$ a bin's width and height, $s = h/w$, and
$t = (x - x_k)/w$,

    y = y_k + h (s t^2 + d_k t (1 - t)) / (s + (d_k + d_{k+1} - 2 s) t (1 - t))

Durkan, Bekasov, Murray, Papamakarios, *Neural spline flows* (2019), equations 4 to 8.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

BOUND = 5.0
"""Half the width of the interval that a spline bends."""
SMALLEST = 1e-3
"""The least width and height of a bin (as shares of the interval), and the least derivative."""


class Knots(NamedTuple):
    """The knots of one spline an element: shape `(dim, bins + 1)` each."""

    x: Any
    y: Any
    slope: Any


def knots(raw: Float[Array, "dim parameters"]) -> Knots:
    """Knots from unrestricted numbers, 3 bins - 1 an element; zeros are the identity."""
    bins = (raw.shape[1] + 1) // 3
    inner = SMALLEST + jax.nn.softplus(raw[:, 2 * bins :] + math.log(math.expm1(1.0 - SMALLEST)))
    ends = jnp.ones((raw.shape[0], 1), raw.dtype)
    return Knots(_edges(raw[:, :bins]), _edges(raw[:, bins : 2 * bins]), jnp.concatenate([ends, inner, ends], axis=1))


def _edges(raw: Any) -> Any:
    """Increasing positions from -BOUND to BOUND."""
    bins = raw.shape[1]
    shares = SMALLEST + (1.0 - SMALLEST * bins) * jax.nn.softmax(raw, axis=1)
    inner = 2.0 * BOUND * jnp.cumsum(shares[:, :-1], axis=1) - BOUND
    end = jnp.full((raw.shape[0], 1), BOUND, raw.dtype)
    return jnp.concatenate([-end, inner, end], axis=1)


class _Bin(NamedTuple):
    """The bin of each element: where it begins, its size, and the derivatives at its ends."""

    x: Any
    y: Any
    width: Any
    height: Any
    left: Any
    right: Any


def _bin(edges: Any, points: Knots, value: Any) -> _Bin:
    """The bin in which each value lies along `edges`; picked by a mask, which is faster here than by an index."""
    inside = (value[:, None] >= edges[:, 1:-1]).sum(axis=1)
    mask = inside[:, None] == jnp.arange(edges.shape[1] - 1)[None, :]

    def pick(numbers: Any) -> Any:
        return jnp.sum(jnp.where(mask, numbers, 0.0), axis=1)

    x, y, slope = points
    return _Bin(
        x=pick(x[:, :-1]),
        y=pick(y[:, :-1]),
        width=pick(jnp.diff(x, axis=1)),
        height=pick(jnp.diff(y, axis=1)),
        left=pick(slope[:, :-1]),
        right=pick(slope[:, 1:]),
    )


def forward(points: Knots, value: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Float[Array, "dim"]]:
    """The spline at each element, and the logs of its derivatives."""
    within = jnp.abs(value) < BOUND
    safe = jnp.where(within, value, 0.0)
    b = _bin(points.x, points, safe)
    t = (safe - b.x) / b.width
    ratio = b.height / b.width
    below = ratio + (b.left + b.right - 2 * ratio) * t * (1 - t)
    image = b.y + b.height * (ratio * t**2 + b.left * t * (1 - t)) / below
    return jnp.where(within, image, value), jnp.where(within, _log_slope(b, t), 0.0)


def inverse(points: Knots, image: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Float[Array, "dim"]]:
    """The value with this image, and the logs of the spline's derivatives there."""
    within = jnp.abs(image) < BOUND
    safe = jnp.where(within, image, 0.0)
    b = _bin(points.y, points, safe)
    ratio, rise = b.height / b.width, safe - b.y
    bend = b.left + b.right - 2 * ratio
    # The equation for y is quadratic in t; this form of its root loses no digits (eq. 29 of the paper).
    square, linear, constant = b.height * (ratio - b.left) + rise * bend, b.height * b.left - rise * bend, -ratio * rise
    root = jnp.sqrt(jnp.maximum(linear**2 - 4 * square * constant, 0.0))
    t = 2 * constant / (-linear - root)
    return jnp.where(within, b.x + t * b.width, image), jnp.where(within, _log_slope(b, t), 0.0)


def _log_slope(b: _Bin, t: Any) -> Any:
    """The log of dy/dx."""
    ratio = b.height / b.width
    below = ratio + (b.left + b.right - 2 * ratio) * t * (1 - t)
    above = b.right * t**2 + 2 * ratio * t * (1 - t) + b.left * (1 - t) ** 2
    return 2 * jnp.log(ratio) + jnp.log(above) - 2 * jnp.log(below)
