"""Log |det| of the Jacobian of a map between lists of arrays, where some arrays pass through and some take no part.

Law: for a differentiable map f and the coordinates that are made on each side,

    log_abs_det(linearized(f, leaves, ...).matrix, made_in, made_out) = log |det d f(x)[made_out] / d x[made_in]|.

Two reductions keep it cheap. An output that *is* an input (seen in the map's jaxpr) gives a row with a single one, so
that its row and column drop out. A coordinate that is not made on one side is paired with one that is not made on the
other. Nothing else is exploited: what remains is a dense matrix, found by forward-mode differentiation.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ppl.semantics import jaxpr as jp


class Coordinate(NamedTuple):
    """What is known of one array before the map runs: whether it is continuous, and whether it may be not made."""

    continuous: bool
    masked: bool


class Linearized(NamedTuple):
    """A map at a point.

    Attributes:
        function: The map, to be evaluated elsewhere.
        leaves: Its value.
        matrix: The Jacobian of the outputs `rows` with respect to the inputs `columns` (positions in the lists), each
            flattened and put one behind the other.
    """

    function: Callable[..., list[Any]]
    leaves: list[Any]
    matrix: Float[Array, "moved moved"]
    rows: tuple[int, ...]
    columns: tuple[int, ...]


def linearized(
    function: Callable[..., list[Any]],
    leaves: Sequence[Any],
    coordinates: Sequence[Coordinate],
    after: Sequence[Coordinate] | None = None,
) -> Linearized:
    """Evaluate a map with the Jacobian of its moved continuous arrays; everything else is held fixed.

    Args:
        function: From arrays to arrays, in the sum of as many continuous numbers.
        leaves: The point.
        coordinates: What is known of each array.
        after: What is known of each array that the function returns; the same by default.

    Examples:
        >>> scaled = linearized(lambda x, y: [2.0 * x, y], [jnp.ones(2), jnp.ones(9)], [Coordinate(True, False)] * 2)
        >>> scaled.matrix.tolist()
        [[2.0, 0.0], [0.0, 2.0]]
    """
    code = jp.stage(function, *map(jp.aval_of, leaves)).code
    run = jp.as_function(code)
    rows, columns = _moved(code.jaxpr, coordinates, coordinates if after is None else after)
    vector = _joined([leaves[i] for i in columns])

    def from_vector(vector: Any) -> tuple[Any, list[Any]]:
        out = run(*_replaced(leaves, columns, vector))
        return _joined([out[i] for i in rows]), out

    if vector.size == 0:
        return Linearized(run, run(*leaves), jnp.zeros((0, 0), vector.dtype), rows, columns)
    matrix, out = jax.jacfwd(from_vector, has_aux=True)(vector)
    return Linearized(run, out, matrix, rows, columns)


def _moved(
    jaxpr: Any, before: Sequence[Coordinate], after: Sequence[Coordinate]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The continuous outputs that are not just an input, and the continuous inputs that are not just an output.

    Arrays that may be not made stay: an input that goes to an output which is not made is not a row of the matrix.
    """
    place = {var: i for i, var in enumerate(jaxpr.invars)}
    columns, free = ([i for i, c in enumerate(side) if c.continuous] for side in (before, after))
    plain = {i for i in columns if not before[i].masked}
    sources = {}
    for i in free:
        atom = jaxpr.outvars[i]
        source = None if jp.is_literal(atom) else place.get(atom)
        if not after[i].masked and source in plain and source not in sources.values():
            sources[i] = source
    rows = tuple(i for i in free if i not in sources)
    return rows, tuple(i for i in columns if i not in sources.values())


def _joined(parts: list[Any]) -> Any:
    flat = [jnp.reshape(part, (-1,)) for part in parts]
    return jnp.concatenate(flat) if flat else jnp.zeros(0, jnp.result_type(float))


def _replaced(leaves: Sequence[Any], places: Sequence[int], vector: Any) -> list[Any]:
    result, start = list(leaves), 0
    for i in places:
        shape, size = jnp.shape(leaves[i]), math.prod(jnp.shape(leaves[i]))
        result[i] = vector[start : start + size].reshape(shape).astype(leaves[i].dtype)
        start += size
    return result


def log_abs_det(
    matrix: Float[Array, "moved moved"],
    made_out: Bool[Array, "moved"] | None = None,
    made_in: Bool[Array, "moved"] | None = None,
) -> Float[Array, ""]:
    """Log |det| of the submatrix of the coordinates that are made; minus infinity where it is singular.

    The made rows and columns are brought to the front, in their order, and the rest replaced by the identity; this
    changes at most the sign of the determinant. Where the two counts differ the result means nothing: see
    `same_number`.

    Args:
        matrix: Outputs by inputs.
        made_out: Which outputs are made (None: all).
        made_in: Which inputs are made.

    Examples:
        >>> matrix = jnp.array([[3.0, 5.0], [7.0, 2.0]])
        >>> round(float(jnp.exp(log_abs_det(matrix, jnp.array([True, False]), jnp.array([False, True])))), 4)
        5.0
    """
    if made_out is not None and made_in is not None:
        rows, columns = jnp.argsort(~made_out, stable=True), jnp.argsort(~made_in, stable=True)
        inside = jnp.arange(len(matrix)) < jnp.sum(made_in)
        matrix = jnp.where(inside[:, None] & inside[None, :], matrix[rows][:, columns], jnp.eye(len(matrix)))
    return _log_abs_det(matrix)


def same_number(made_out: Bool[Array, "moved"], made_in: Bool[Array, "moved"]) -> Bool[Array, ""]:
    """Whether as many coordinates are made after a map as before."""
    return jnp.sum(made_out) == jnp.sum(made_in)


def _log_abs_det(matrix: Any) -> Any:
    """Closed forms up to order two: they stay inside native loops and batch without LAPACK."""
    if len(matrix) == 0:
        return jnp.zeros((), matrix.dtype)
    if len(matrix) == 1:
        return jnp.log(jnp.abs(matrix[0, 0]))
    if len(matrix) == 2:
        return jnp.log(jnp.abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]))
    return jnp.linalg.slogdet(matrix)[1]
