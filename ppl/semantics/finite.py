"""Exact finite measures: a finite list of points with log weights. The meaning of every finite program.

Weights are not normalised unless `normalize` was called; points may repeat, their masses add. Everything here is plain
arithmetic on arrays: no randomness, no approximation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import logsumexp

from ppl.distributions.drawn import law_of_draws
from ppl.distributions.finite import Outcomes
from ppl.errors import AddressError, DegenerateWeightsError, ShapeError
from ppl.semantics.show import finite_html, finite_text


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class FiniteMeasure:
    """A measure with finitely many points.

    Attributes:
        log_weights: Log masses of the points, shape `(points,)`, in nats; minus infinity is mass zero.
        values: The points: a pytree with a leading axis of points.
        choices: Where the measure is that of a program: its choices by address, with the same leading axis.
        masks: For addresses inside branches, whether the choice was made.
        presence: For values that are choices (see `marginal`): a dict like `values`, or one entry, of masks or None. A
            part that is absent compares equal to absent parts only, and is shown as "-".

    Examples:
        >>> import jax.numpy as jnp
        >>> die = FiniteMeasure(jnp.log(jnp.full(6, 1 / 6)), jnp.arange(1, 7))
        >>> round(float(die.expectation(lambda x: x)), 4)
        3.5
    """

    log_weights: Any
    values: Any
    choices: dict[str, Any] = field(default_factory=dict)
    masks: dict[str, Any] = field(default_factory=dict)
    presence: Any = None

    @property
    def weights(self) -> Any:
        """The masses of the points, shape `(points,)`."""
        return jnp.exp(self.log_weights)

    @property
    def log_mass(self) -> Any:
        """Log of the total mass (for a conditioned program: the log evidence), in nats."""
        return logsumexp(self.log_weights) if self.log_weights.shape[0] else jnp.asarray(-jnp.inf)

    @property
    def mass(self) -> Any:
        """The total mass."""
        return jnp.exp(self.log_mass)

    def expectation(self, f: Callable[[Any], Any]) -> Any:
        """The integral of `f(value)` against the measure (a mean only when the mass is one).

        Points of mass zero do not count, whatever `f` makes of them.
        """
        weights = self.weights

        def integral(result: Any) -> Any:
            result = jnp.asarray(result, weights.dtype)
            counted = jnp.reshape(weights > 0, (-1, *(1,) * (result.ndim - 1)))
            return jnp.tensordot(weights, jnp.where(counted, result, 0.0), axes=1)

        return jax.tree.map(integral, jax.vmap(f)(self.values))

    def normalize(self) -> "FiniteMeasure":
        """The measure divided by its mass.

        Raises:
            DegenerateWeightsError: where the mass is zero (and the values are not traced).
        """
        mass = self.log_mass
        if not isinstance(mass, Tracer) and not np.isfinite(mass):
            raise DegenerateWeightsError(
                f"The measure has log mass {float(mass)}; it cannot be normalised.\n"
                "Expected: positive, finite mass. Is an observation impossible under every choice?"
            )
        return self._with(log_weights=self.log_weights - mass)

    def map(self, f: Callable[[Any], Any]) -> "FiniteMeasure":
        """The push-forward by `f`; the choices stay (absent parts of the values are zeros to `f`)."""
        return self._with(values=jax.vmap(f)(self.values), presence=None)

    def condition(self, predicate: Callable[[Any], Any] | dict[str, Any]) -> "FiniteMeasure":
        """The restriction to the points that satisfy a predicate of the value, or that have the given choices.

        Not normalised: the mass is that of the event. A choice that a point does not make agrees with every value, so
        that `program.enumerate().condition(c)` and `program.condition(c).enumerate()` have one mass.
        """
        if callable(predicate):
            keep = jax.vmap(predicate)(self.values)
        else:
            keep = jnp.ones(self.log_weights.shape, bool)
            for address, value in predicate.items():
                points = self._choice(address)
                made = _spread(self.masks.get(address), points.shape)
                equal = points == _like_one(points, value, address)
                keep = keep & (equal | ~made).reshape(points.shape[0], -1).all(axis=1)
        return self._with(log_weights=jnp.where(keep, self.log_weights, -jnp.inf))

    def marginal(self, addresses: str | list[str]) -> "FiniteMeasure":
        """The law of some choices: values are an array (one address) or a dict (a list of addresses)."""
        names = [addresses] if isinstance(addresses, str) else list(addresses)
        kept = {name: self._choice(name) for name in names}
        masks = {name: self.masks[name] for name in names if name in self.masks}
        presence = {name: masks.get(name) for name in names}
        if isinstance(addresses, str):
            return FiniteMeasure(self.log_weights, kept[addresses], kept, masks, presence[addresses])
        return FiniteMeasure(self.log_weights, kept, kept, masks, presence)

    def on_choices(self) -> "FiniteMeasure":
        """The measure on choices, masks and value together: what two programs with one meaning agree on."""
        values = {"choices": self.choices, "masks": self.masks, "value": self.values}
        return self._with(values=values, presence=None)

    def merged(self) -> "FiniteMeasure":
        """The same measure with equal values merged, sorted, without points of mass zero; choices are dropped."""
        keys, rows = _rows(self)
        log_weights = np.asarray(self.log_weights, np.float64)
        order, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)[1:]
        masses = np.full(len(order), -np.inf)
        np.logaddexp.at(masses, inverse.reshape(-1), log_weights)
        alive = order[masses > -np.inf]
        values, presence = jax.tree.map(lambda x: np.asarray(x)[alive], (rows, self.presence))
        return FiniteMeasure(masses[masses > -np.inf], values, presence=presence)

    def allclose(self, other: "FiniteMeasure", atol: float = 1e-6) -> bool:
        """Whether no value's mass differs by more than `atol`."""
        return self.distance(other) <= atol

    def distance(self, other: "FiniteMeasure") -> float:
        """The largest difference of mass over single values."""
        mine, theirs = _masses(self), _masses(other)
        gaps = [abs(mine.get(k, 0.0) - theirs.get(k, 0.0)) for k in mine.keys() | theirs.keys()]
        return float("nan") if any(np.isnan(gaps)) else max(gaps, default=0.0)

    # --- as a measure inside a program -------------------------------------------------------------------------------

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Draw a value in proportion to its mass."""
        index = jax.random.categorical(key, self.log_weights, shape=sample_shape)
        return jax.tree.map(lambda x: jnp.asarray(x)[index], self.values)

    def log_prob(self, value: Any) -> Any:
        """The log mass of a value, in nats; not normalised."""
        equal = jnp.ones(self.log_weights.shape, bool)
        for points, leaf in zip(jax.tree.leaves(self.values), jax.tree.leaves(value), strict=True):
            equal = equal & (points == jnp.asarray(leaf)[None]).reshape(points.shape[0], -1).all(axis=1)
        return logsumexp(jnp.where(equal, self.log_weights, -jnp.inf))

    def outcomes(self) -> Outcomes:
        """The points with their log masses."""
        return Outcomes(self.values, self.log_weights)

    # --- showing it --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        """A table of values with their masses."""
        return finite_text(*self._table())

    def _repr_html_(self) -> str:
        """The table for Jupyter."""
        return finite_html(*self._table())

    def _table(self) -> tuple[float, list[tuple[float, str]]]:
        if isinstance(self.log_weights, Tracer):
            return float("nan"), []
        merged = self.merged()
        order = np.argsort(-np.asarray(merged.log_weights), kind="stable")
        rows = [(float(np.exp(merged.log_weights[i])), _show(merged, int(i))) for i in order]
        return float(np.exp(np.logaddexp.reduce(merged.log_weights))) if rows else 0.0, rows

    def _choice(self, address: str) -> Any:
        if address not in self.choices:
            raise AddressError(
                f"The measure has no choices at {address!r}.\nIts addresses: "
                f"{', '.join(map(repr, self.choices)) or 'none'}."
            )
        return self.choices[address]

    def _with(self, **changes: Any) -> "FiniteMeasure":
        return replace(self, **changes)


_ABSENT = np.finfo(np.float64).min
"""Stands for an absent choice among the numbers that are compared."""


def _rows(measure: FiniteMeasure) -> tuple[Any, Any]:
    """One comparable row of numbers a point (floats rounded to about 9 or 5 decimals), and the values on the host."""
    count = measure.log_weights.shape[0]
    columns = [np.zeros((count, 1))]
    host = jax.tree.map(np.asarray, measure.values)
    for leaf, presence in _parts(host, measure.presence):
        flat = leaf.reshape(count, -1)
        if np.issubdtype(flat.dtype, np.floating):
            flat = np.round(flat.astype(np.float64), 9 if flat.dtype == np.float64 else 5) + 0.0
        if presence is not None:
            flat = np.where(np.asarray(_spread(presence, leaf.shape)).reshape(count, -1), flat, _ABSENT)
        columns.append(flat.astype(np.float64))
    return np.concatenate(columns, axis=1), host


def _parts(values: Any, presence: Any) -> list[tuple[Any, Any]]:
    """Each leaf with its mask or None."""
    if isinstance(presence, dict):
        return [(values[name], presence[name]) for name in sorted(values)]
    return [(leaf, presence) for leaf in jax.tree.leaves(values)]


def _like_one(points: Any, value: Any, address: str) -> Any:
    """A value of one point's shape, with an axis for the points."""
    value = jnp.asarray(value)
    if value.shape != points.shape[1:]:
        raise ShapeError(
            f"A finite measure was conditioned on {address!r} with an array of shape {value.shape}.\n"
            f"Expected: shape {points.shape[1:]}, that of one choice."
        )
    return value[None]


def _spread(mask: Any, shape: tuple[int, ...]) -> Any:
    """A mask over leading axes as one over all of them; None is everywhere true."""
    if mask is None:
        return jnp.ones(shape, bool)
    mask = jnp.asarray(mask)
    return jnp.broadcast_to(mask.reshape(*mask.shape, *(1,) * (len(shape) - mask.ndim)), shape)


def _masses(measure: FiniteMeasure) -> dict[bytes, float]:
    keys, _ = _rows(measure)
    masses: dict[bytes, float] = {}
    for row, weight in zip(keys, np.exp(np.asarray(measure.log_weights, np.float64)), strict=True):
        masses[row.tobytes()] = masses.get(row.tobytes(), 0.0) + float(weight)
    return masses


def _show(measure: FiniteMeasure, index: int) -> str:
    values = jax.tree.map(lambda x: np.asarray(x)[index].tolist(), measure.values)
    masks = jax.tree.map(lambda x: np.asarray(x)[index], measure.presence)
    if isinstance(values, dict):
        masks = masks if isinstance(masks, dict) else {}
        return "  ".join(f"{name}={_dashed(value, masks.get(name))}" for name, value in values.items())
    return str(_dashed(values, masks))


def _dashed(value: Any, mask: Any) -> Any:
    """A value as text, with "-" in the place of its absent parts."""
    if mask is None or np.all(mask):
        return value
    if not np.any(mask):
        return "-"
    return "[" + ", ".join(str(_dashed(part, made)) for part, made in zip(value, mask, strict=True)) + "]"


@law_of_draws.register
def _normalized(measure: FiniteMeasure) -> FiniteMeasure:
    return measure.normalize()
