"""Text and HTML tables that look alike in a terminal and in Jupyter, on light and dark themes.

Law: nothing of the user's (addresses, notes, titles) reaches the HTML unescaped, and no colour is fixed
except the warning's, which is readable on white and on black. It knows nothing of posteriors.
"""

import html
import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

CELL = "padding:0.15em 0.7em;white-space:nowrap;background:transparent;"
RULE = "1px solid rgba(128,128,128,0.45)"
WARNING = "color:#d9480f;font-weight:600;"
WIDTH = 100
MINUS = "\N{EN DASH}"


class Note(NamedTuple):
    """A line under a table; `warning` sets it off."""

    text: str
    warning: bool = False


def format_number(value: float, decimals: int | None = None) -> str:
    """A number in a cell: fixed decimals where they are readable, else scientific; a dash for NaN.

    Examples:
        >>> format_number(3.14159, 2), format_number(1234567.0, 2), format_number(float("nan"))
        ('3.14', '1.23e+06', '–')
    """
    if math.isnan(value):
        return MINUS
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if decimals is None:
        return f"{value:.3g}"
    if value and not 1e-5 <= abs(value) < 1e6 and abs(value) * 10**decimals >= 1e6:
        return f"{value:.2e}"
    if value and abs(value) < 1e-5 and decimals > 6:
        return f"{value:.2e}"
    text = f"{value:.{min(decimals, 8)}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns aligned by spaces: the first `left` ones to the left, the others to the right.

    Examples:
        >>> print(text_table(["", "mean"], [["mu", "1.0"], ["theta", "-10.25"]]))
                 mean
        mu        1.0
        theta  -10.25
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def text_notes(notes: Sequence[Note]) -> str:
    """Notes as wrapped lines; a warning starts with `!`."""
    starts = ("! " if note.warning else "  " for note in notes)
    return "\n".join(
        textwrap.fill(note.text, WIDTH, initial_indent=start, subsequent_indent="  ", break_on_hyphens=False)
        for start, note in zip(starts, notes, strict=True)
    )


def html_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[Note] = (), left: int = 1
) -> str:
    """The same table as HTML with inline styles only: it inherits the page's colours.

    Args:
        title: the line above the table.
        header: one name per column; the first column holds the rows' labels.
        rows: text cells.
        notes: lines under the table.
        left: the number of columns aligned to the left.

    Returns:
        One `<div>`.
    """
    head = "".join(
        f'<th scope="col" style="{CELL}{_side(at_left=column < left)}border-bottom:{RULE};">{html.escape(name)}</th>'
        for column, name in enumerate(header)
    )
    body = "".join(f"<tr>{_html_row(row, left)}</tr>" for row in rows)
    foot = "".join(
        f'<div style="margin-top:0.25em;{WARNING if note.warning else "opacity:0.8;"}">'
        f"{'&#9888; ' if note.warning else ''}{html.escape(note.text)}</div>"
        for note in notes
    )
    return (
        '<div style="font-size:0.92em;line-height:1.35;color:inherit;max-width:60em;">'
        f'<div style="font-weight:600;margin-bottom:0.3em;">{html.escape(title)}</div>'
        '<div style="overflow-x:auto;">'
        '<table style="border-collapse:collapse;margin:0;border:none;color:inherit;font-size:inherit;'
        'font-variant-numeric:tabular-nums;">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{foot}</div>"
    )


def _html_row(row: Sequence[str], left: int) -> str:
    label, *cells = row
    first = f'<th scope="row" style="{CELL}{_side(at_left=True)}font-weight:normal;">{html.escape(label)}</th>'
    return first + "".join(
        f'<td style="{CELL}{_side(at_left=column < left)}">{html.escape(cell)}</td>'
        for column, cell in enumerate(cells, 1)
    )


def _side(*, at_left: bool) -> str:
    return "text-align:left;" if at_left else "text-align:right;"


def axes_text(shape: Sequence[int], dims: Sequence[str | None]) -> str:
    """Sizes with the names of their axes.

    Examples:
        >>> axes_text((8, 2), ("school", None)), axes_text((), ())
        ('school: 8, 2', 'scalar')
    """
    names = tuple(dims) if len(dims) == len(shape) else (None,) * len(shape)
    parts = (str(n) if d is None else f"{d}: {n}" for d, n in zip(names, shape, strict=True))
    return ", ".join(parts) or "scalar"
