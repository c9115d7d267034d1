"""Tables of a posterior: moments, intervals and how far to trust them, one row per scalar.

Law: what makes the numbers untrustworthy (a small ESS, r_hat, NaN, and what the caller knows) is said under the
table, warnings first. The formulas are in `ppl.inference.moments`. It draws nothing and runs no model.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from ppl.inference.moments import chain_errors, importance_errors, weighted_hdi, weighted_moments
from ppl.inference.notes import row_warnings
from ppl.inference.tables import Note, format_number, html_table, text_notes, text_table

MAX_ROWS = 60
COUNTS = ("ess", "ess_bulk", "ess_tail")


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """A table of scalars.

    Attributes:
        rows: one label per scalar, such as `theta[school=0]`.
        columns: the numbers of each column, one per row; NaN where a number is not defined.
        notes: what is to be said of the whole; warnings first.
        title: the line above the table.
    """

    rows: tuple[str, ...]
    columns: dict[str, Float[np.ndarray, "rows"]]
    notes: tuple[Note, ...]
    title: str

    def __repr__(self) -> str:
        """The table as aligned text."""
        header, body = self._cells()
        parts = [self.title, "", text_table(header, body), "", text_notes(self._all_notes())]
        return "\n".join(parts).rstrip()

    def _repr_html_(self) -> str:
        header, body = self._cells()
        return html_table(self.title, header, body, self._all_notes())

    def to_dict(self) -> dict[str, dict[str, float]]:
        """All numbers as `{row: {column: value}}`."""
        return {
            row: {name: float(values[index]) for name, values in self.columns.items()}
            for index, row in enumerate(self.rows)
        }

    def to_dataframe(self) -> Any:
        """The table as a `pandas.DataFrame` indexed by row.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "Summary.to_dataframe() needs pandas: pip install pandas. to_dict() needs nothing."
            ) from error
        return pd.DataFrame(self.columns, index=list(self.rows))

    def _all_notes(self) -> tuple[Note, ...]:
        hidden = len(self.rows) - MAX_ROWS
        if hidden <= 0:
            return self.notes
        return (*self.notes, Note(f"{hidden} more rows are not shown; to_dict() has them all."))

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        body = []
        for index, row in enumerate(self.rows[:MAX_ROWS]):
            numbers = {name: float(values[index]) for name, values in self.columns.items()}
            decimals = _decimals(numbers["sd"], numbers["mean"])
            body.append([row, *(_cell(name, x, decimals) for name, x in numbers.items())])
        return ["", *self.columns], body


class Context(NamedTuple):
    """What the rows of one table share.

    Attributes:
        weights: normalised weights of the draws, flat; None for equal ones.
        exact: the draws are all the values there are and the weights their probabilities.
        hdi_prob: weight inside the interval.
    """

    weights: Float[np.ndarray, "n"] | None
    exact: bool
    hdi_prob: float


def summarize(
    draws: Mapping[str, Shaped[Array | np.ndarray, "_chains _draws ..."]],
    *,
    masks: Mapping[str, Bool[Array | np.ndarray, "_chains _draws ..."]],
    context: Context,
    dims: Mapping[str, tuple[str | None, ...]],
    notes: Sequence[Note],
    title: str,
) -> Summary:
    """Make the table.

    Args:
        draws: draws by address.
        masks: for addresses inside branches, where the choice was made; the others' draws count for nothing.
        context: weights and what the rows share.
        dims: names of the axes after (chain, draw), by address; None where an axis has no name.
        notes: what the caller has to say; the table's own warnings are put in front.
        title: the line above the table.

    Returns:
        One row per scalar element of every numeric address.
    """
    labels: list[str] = []
    rows: list[dict[str, float]] = []
    skipped = []
    for address, values in draws.items():
        array = _numeric(values)
        if array is None:
            skipped.append(address)
            continue
        mask = _broadcast_mask(masks.get(address), array.shape)
        for index in np.ndindex(array.shape[2:]):
            labels.append(address + element_label(index, dims.get(address, ())))
            made = None if mask is None else mask[(..., *index)]
            rows.append(_row(array[(..., *index)], made, context))
    names = _column_names(context, with_made=bool(masks))
    columns = {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}
    nan_draws = [row["nan_draws"] for row in rows]
    own = [*row_warnings(labels, columns, nan_draws), *_skipped_note(skipped)]
    ordered = sorted([*notes, *own], key=lambda note: not note.warning)
    return Summary(tuple(labels), columns, tuple(ordered), title)


def element_label(index: tuple[int, ...], dims: tuple[str | None, ...]) -> str:
    """`[school=0, 1]` for an element; empty for a scalar.

    Examples:
        >>> element_label((0, 1), ("school", None)), element_label((), ())
        ('[school=0, 1]', '')
    """
    if not index:
        return ""
    names = tuple(dims) if len(dims) == len(index) else (None,) * len(index)
    parts = (str(i) if name is None else f"{name}={i}" for name, i in zip(names, index, strict=True))
    return f"[{', '.join(parts)}]"


def _column_names(context: Context, *, with_made: bool) -> list[str]:
    low, high = hdi_names(context.hdi_prob)
    base = ["mean", "sd", low, high]
    if with_made:
        base.append("p_made")
    if context.exact:
        return base
    if context.weights is not None:
        return [*base, "mcse", "ess"]
    return [*base, "mcse", "ess_bulk", "ess_tail", "r_hat"]


def hdi_names(prob: float) -> tuple[str, str]:
    """Names of the interval's two columns, such as `hdi_3%` and `hdi_97%`."""
    low = 50 * (1 - prob)
    return f"hdi_{low:.3g}%", f"hdi_{100 - low:.4g}%"


def _numeric(values: Any) -> np.ndarray | None:
    kind = np.dtype(values.dtype).kind if hasattr(values.dtype, "kind") else "O"
    if kind in "biu" or np.issubdtype(getattr(values.dtype, "type", object), np.floating):
        return np.asarray(values).astype(np.float64)
    if str(values.dtype) == "bfloat16":
        return np.asarray(values).astype(np.float64)
    return None


def _broadcast_mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    if mask is None:
        return None
    mask = np.asarray(mask)
    return np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


def _row(values: np.ndarray, made: np.ndarray | None, context: Context) -> dict[str, float]:
    flat = values.ravel()
    weights = np.full(flat.size, 1 / flat.size) if context.weights is None else context.weights
    row: dict[str, float] = {"p_made": 1.0}
    if made is not None:
        row["p_made"] = float(weights @ made.ravel())
        weights = np.where(made.ravel(), weights, 0.0)
    kept = weights > 0
    row["nan_draws"] = float(np.isnan(flat[kept]).sum())
    if row["p_made"] <= 0 or row["nan_draws"]:
        return row
    flat, weights = flat[kept], weights[kept] / weights[kept].sum()
    row |= _moments(flat, weights, context)
    if context.exact:
        return row
    if context.weights is not None:
        return row | importance_errors(flat, weights)
    return row | (chain_errors(values) if made is None or made.all() else {})


def _moments(x: np.ndarray, weights: np.ndarray, context: Context) -> dict[str, float]:
    mean, sd = weighted_moments(x, weights)
    if context.weights is None and x.size > 1:
        sd *= math.sqrt(x.size / (x.size - 1))
    low, high = weighted_hdi(x, weights, context.hdi_prob)
    names = hdi_names(context.hdi_prob)
    return {"mean": mean, "sd": sd, names[0]: low, names[1]: high}


def _skipped_note(skipped: Sequence[str]) -> list[Note]:
    return [Note(f"Not numbers, so not shown: {', '.join(skipped)}.")] if skipped else []


def _decimals(sd: float, mean: float) -> int:
    scale = sd if sd > 0 and math.isfinite(sd) else abs(mean)
    if not math.isfinite(scale) or scale == 0:
        return 2
    return min(max(2 - math.floor(math.log10(scale)), 0), 9)


def _cell(name: str, value: float, decimals: int) -> str:
    if name in COUNTS:
        return format_number(value, 0)
    if name == "r_hat":
        return format_number(value, 3)
    if name == "p_made":
        return format_number(value, 2)
    return format_number(value, min(decimals + 1, 9) if name == "mcse" else decimals)
