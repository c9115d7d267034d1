"""What all figures share: colours, an empty figure, writing it to a file."""

import os
from collections.abc import Sequence
from typing import Any

FILL = "#4c78a8"
LINE = "#27496d"
MARK = "#d9480f"


def new_figure(width: float, height: float) -> Any:
    """An empty `matplotlib.figure.Figure`, in inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install quasiborel[plots]") from error
    return Figure(figsize=(width, height), layout="constrained")


def written(figure: Any, path: str | os.PathLike[str] | None) -> Any:
    """The figure, written to `path` if there is one."""
    if path is not None:
        figure.savefig(path, dpi=150, facecolor="white")
    return figure


def bare(panel: Any, sides: Sequence[str]) -> None:
    """Take lines around a panel away."""
    for side in sides:
        panel.spines[side].set_visible(False)
