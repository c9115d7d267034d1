"""When a fit stops before its last step: a rule on the values of the objective so far, stated in full.

Law: a rule sees the history at multiples of its window only, so that what it decides depends on the history alone, not
on how the run was cut into pieces, interrupted or resumed.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ppl.inference.method import positive


@runtime_checkable
class StopRule(Protocol):
    """A rule; it is asked every `window` steps."""

    @property
    def window(self) -> int:
        """Steps between two questions."""
        ...

    def __call__(self, history: Float[np.ndarray, "steps"]) -> bool:
        """Whether the fit is done, from the objective's value at each step."""
        ...


@dataclass(frozen=True)
class Plateau:
    """Stop when the windowed mean of the objective has not moved for some windows.

    With m_j the mean over the j-th window of steps: |m_j - m_{j-1}| <= tolerance (1 + |m_j|) for the last `patience`
    windows j. A mean over a window has a standard error, and a tolerance below it never stops a fit.

    Args:
        tolerance: The largest relative change.
        window: Steps in a window.
        patience: How many windows in a row.

    Examples:
        >>> import numpy as np
        >>> rule = Plateau(tolerance=1e-3, window=10, patience=2)
        >>> rule(np.repeat([5.0, 4.0, 4.001], 10)), rule(np.repeat([5.0, 4.0, 4.001, 4.0], 10))
        (False, True)
    """

    tolerance: float = 1e-3
    window: int = 100
    patience: int = 3

    def __post_init__(self) -> None:
        positive("window", self.window)
        positive("patience", self.patience)
        if not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance}.\nExpected: a positive number.")

    def __call__(self, history: Float[np.ndarray, "steps"]) -> bool:
        """Whether the last changes of the windowed mean were all small."""
        whole = len(history) // self.window
        if whole < self.patience + 1:
            return False
        means = history[: whole * self.window].reshape(whole, self.window).mean(axis=1)[-self.patience - 1 :]
        return bool(np.all(np.abs(np.diff(means)) <= self.tolerance * (1.0 + np.abs(means[1:]))))
