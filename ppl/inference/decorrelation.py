r"""How many moves are enough: when the particles no longer know where they started.

For each coordinate, the correlation over particles between start and present place, and that of the squares about the
mean (an antithetic jump leaves these correlated); the larger one counts, and the mean over coordinates decides. Stop
when it is at most a fifth, or where it no longer falls: between modes far apart no local kernel moves.

References: Buchholz, Chopin, Jacob, "Adaptive tuning of Hamiltonian Monte Carlo within sequential Monte Carlo",
Bayesian Analysis 16 (2021): go on until the correlation with the start is small. The second rule is that of PyMC's SMC
(`pymc.smc.kernels`, `correlation_threshold`: stop when the correlation falls no further).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

ENOUGH = 0.2
"""A mean correlation with the start that is small enough."""
FALL = 0.02
"""It falls on where it falls by so much within `PATIENCE` moves."""
PATIENCE = 5


class Watch(NamedTuple):
    """The correlation now, the last one that counted as a fall, and the moves since."""

    correlation: Float[Array, ""]
    best: Float[Array, ""]
    idle: Any

    @property
    def done(self) -> Bool[Array, ""]:
        """Whether to stop."""
        return (self.correlation <= ENOUGH) | (self.idle >= PATIENCE)


def watch() -> Watch:
    """Before the first move."""
    one = jnp.ones((), jnp.result_type(float))
    return Watch(one, one, jnp.int32(0))


def watched(before: Watch, start: Float[Array, "particles k"], now: Float[Array, "particles k"]) -> Watch:
    """After a move.

    Args:
        before: The watch so far.
        start: Coordinates of the particles at the start of the moves.
        now: Where they are now.
    """
    correlation = mean_correlation(start, now)
    fell = correlation < before.best - FALL
    return Watch(correlation, jnp.where(fell, correlation, before.best), jnp.where(fell, 0, before.idle + 1))


def mean_correlation(start: Float[Array, "particles k"], now: Float[Array, "particles k"]) -> Float[Array, ""]:
    """The mean over coordinates of the correlation of positions or of their squares about the mean; 0 without any.

    Examples:
        >>> x = jnp.array([[0.0], [1.0], [3.0]])
        >>> float(mean_correlation(x, x))
        1.0
    """
    a, b = _centred(start), _centred(now)
    found = jnp.maximum(_correlations(a, b), _correlations(a**2, b**2))
    varies = ~jnp.isnan(found)
    total = jnp.sum(jnp.where(varies, jnp.maximum(found, 0.0), 0.0))
    return (total / jnp.maximum(jnp.sum(varies), 1)).astype(jnp.result_type(float))


def _correlations(a: Any, b: Any) -> Any:
    """By column; NaN where one of the two does not vary."""
    a, b = _centred(a), _centred(b)
    scale = jnp.sqrt(jnp.sum(a**2, axis=0) * jnp.sum(b**2, axis=0))
    return jnp.where(scale > 0, jnp.sum(a * b, axis=0) / jnp.where(scale > 0, scale, 1.0), jnp.nan)


def _centred(x: Any) -> Any:
    return x - jnp.mean(x, axis=0, keepdims=True)
