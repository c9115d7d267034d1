"""Arrays by name as one matrix with a column for each scalar, and names for the columns."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Shaped

from ppl.errors import NaNError, ShapeError


class Columns(NamedTuple):
    """A matrix of draws, and the name of each column, such as `theta[2]`."""

    names: tuple[str, ...]
    values: Float[np.ndarray, "n columns"]


def columns_of(arrays: Mapping[str, Shaped[Array | np.ndarray, "n ..."]]) -> Columns:
    """Lay arrays side by side; the leading axis, the same for all, runs over draws.

    Args:
        arrays: real, integer or boolean arrays by name.

    Raises:
        ShapeError: an array has no leading axis, or another number of draws than the first.
        NaNError: a draw is NaN, so that it has no rank.

    Examples:
        >>> import numpy as np
        >>> columns_of({"a": np.zeros(3), "b": np.ones((3, 2))}).names
        ('a', 'b[0]', 'b[1]')
    """
    host = {name: np.asarray(x) for name, x in arrays.items()}
    sizes = {name: x.shape[:1] for name, x in host.items()}
    if len(set(sizes.values())) > 1 or () in sizes.values():
        raise ShapeError(f"Expected arrays with one leading axis of draws, got the leading axes {sizes}.")
    names: list[str] = []
    parts = [np.zeros((next(iter(sizes.values()), (0,))[0], 0))]
    for name, x in host.items():
        names += [name + index_text(index) for index in np.ndindex(x.shape[1:])]
        parts.append(x.reshape(len(x), -1).astype(np.float64))
        if np.isnan(parts[-1]).any():
            raise NaNError(f"{int(np.isnan(parts[-1]).any(axis=1).sum())} of {len(x)} draws of {name!r} hold NaN.")
    return Columns(tuple(names), np.concatenate(parts, axis=1))


def index_text(index: tuple[int, ...]) -> str:
    """`[1, 2]`; nothing for a scalar."""
    return f"[{', '.join(map(str, index))}]" if index else ""
