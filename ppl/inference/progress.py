"""The progress of a run: a bar with time left, divergences and step size, fed by many threads at almost no cost."""

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from tqdm.auto import tqdm

DELAY = 1.0
"""Seconds before a bar appears: short runs need none."""


class Progress(NamedTuple):
    """What an advance of a group adds to the bar.

    Attributes:
        transitions: Transitions made, summed over the group's chains.
        divergences: Divergent transitions after warm-up, likewise.
        step_size: The present step size (None: the sampler has none).
        phase: "warm-up" or "sampling".
        numbers: What to show in place of divergences and step size (None: these).
    """

    transitions: int
    divergences: int = 0
    step_size: float | None = None
    phase: str = "sampling"
    numbers: Mapping[str, str] | None = None


class Reporter:
    """A bar over all transitions of all chains; a context manager, called from any thread.

    Args:
        total: Transitions of all chains together.
        show: Whether to show a bar; None: where the output is a terminal or a notebook.
        done: Transitions that were made before (a resumed run).
    """

    def __init__(self, total: int, *, show: bool | None, done: int = 0) -> None:
        hidden = None if show is None else not show
        self._bar = tqdm(total=total, initial=done, disable=hidden, delay=DELAY, unit="step", dynamic_ncols=True)
        self._lock = threading.Lock()
        self._divergences = 0

    def add(self, progress: Progress) -> None:
        """Take the progress of one advance."""
        with self._lock:
            self._divergences += progress.divergences
            if not self._bar.disable:
                self._bar.set_description(progress.phase, refresh=False)
                self._bar.set_postfix(_postfix(progress, self._divergences), refresh=False)
            self._bar.update(progress.transitions)

    def __enter__(self) -> "Reporter":
        """The bar is open."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Close the bar."""
        self._bar.close()


def _postfix(progress: Progress, divergences: int) -> dict[str, str]:
    if progress.numbers is not None:
        return dict(progress.numbers)
    numbers = {} if progress.step_size is None else {"step size": f"{progress.step_size:.2g}"}
    return {"divergences": str(divergences), **numbers}
