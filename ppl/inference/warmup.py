"""The plan of a warm-up, and what is learnt in it: metrics from windows, step sizes to start with. On the host.

Windows grow geometrically, so that a bad early metric is soon forgotten; the last one, more than half of the warm-up,
gives the metric for sampling, and a final stretch adapts the step size to it. Reference: the Stan Reference Manual,
*HMC algorithm parameters*, for the three phases; first windows are shorter here, since gradients tell more than draws.
"""

from typing import Any, NamedTuple

import numpy as np

from ppl.numerics.chain import UNKNOWN, ChainState
from ppl.numerics.metric import Metric
from ppl.numerics.metric_estimates import Window, estimate
from ppl.numerics.metric_on_host import original_gradients, pulled_gradients
from ppl.numerics.step_size import DualAveraging
from ppl.numerics.trajectory import Point

FIRST_WINDOW = 25
"""Transitions of the first window. Shorter ones settle in the first mode that they meet (docs/decisions)."""
GROWTH = 2
"""How much longer each window is than the one before."""
LAST_STRETCH = 0.05
"""Share of the warm-up that adapts the step size alone, at least ten transitions."""


ENOUGH = 0.25
"""The share of a window's transitions that must move for it to teach anything."""


SETTLED = 80
"""Iterations after which the adaptation of the step size goes on through a change of metric."""


class Adaptation(NamedTuple):
    """What a warm-up learnt, by chain: give it to another run as `ppl.NUTS(adaptation=...)`.

    Attributes:
        step_size: In the coordinates of the metric.
        metric: The change of coordinates.
        positions: The last unconstrained positions, where the next run starts.
    """

    step_size: Any
    metric: Metric
    positions: Any


def window_ends(warmup: int) -> tuple[int, ...]:
    """The transitions after which the metric is estimated anew.

    Examples:
        >>> window_ends(1000)
        (25, 75, 175, 375, 950)
        >>> window_ends(15), window_ends(0)
        ((5,), ())
    """
    last = warmup - max(10, round(LAST_STRETCH * warmup))
    if last < 2:
        return ()
    ends, end, size = [], FIRST_WINDOW, FIRST_WINDOW
    while end <= 0.4 * last:
        ends.append(end)
        size *= GROWTH
        end += size
    return (*ends, last)


def started(step_size: float, dtype: Any) -> DualAveraging:
    """Dual averaging from a step size that is known to be about right: it is the anchor, too."""
    log_step, zero = np.log(step_size).astype(dtype), np.zeros((), dtype)
    return DualAveraging(log_step, log_step, zero, log_step, zero, zero)


def default_step(dim: int) -> float:
    """A step size for a target that its metric makes standard normal: the acceptance falls with d eps^4."""
    return float(max(dim, 1) ** -0.25)


def initial_state(position: Any) -> ChainState:
    """A chain at a position where nothing has been evaluated yet, in the coordinates of the identity metric."""
    position = np.asarray(position)
    zero = np.zeros_like(position)
    point = Point(position, zero, zero, np.asarray(UNKNOWN, position.dtype))
    return ChainState(point, started(default_step(position.size), position.dtype), np.int32(0))


def moved_to(
    metric: Metric, state: ChainState, position: np.ndarray, gradient: np.ndarray
) -> tuple[Metric, ChainState]:
    """A state in the coordinates of a new metric, centred at the position.

    Where a metric was known before, a better one changes the step size little: its adaptation goes on, since the noise
    of a fresh start would bias it, and only the average starts anew. The first metrics are another matter.

    Args:
        metric: The new metric.
        state: The state in the old coordinates.
        position: In the original coordinates.
        gradient: Of the log density there, with respect to the original coordinates.
    """
    dtype = np.asarray(metric.scale).dtype
    metric = metric._replace(center=np.asarray(position, dtype))
    zero, pulled = np.zeros_like(metric.center), pulled_gradients(metric, gradient).astype(dtype)
    point = Point(zero, zero, pulled, state.point.log_density)
    settled = state.step.iterations >= SETTLED
    step = state.step._replace(averaged=np.zeros((), dtype)) if settled else started(default_step(len(position)), dtype)
    return metric, state._replace(point=point, step=step)


def learn(metric: Metric, state: ChainState, window: Window, cutoff: float) -> tuple[Metric, ChainState]:
    """At the end of a window: the metric that it shows, and the state in its coordinates.

    A window in which the chain hardly moved teaches nothing; then only the step size starts anew.
    """
    position, gradient = window.draws[-1], window.gradients[-1]
    if state.step.iterations < SETTLED:  # the chain is on its way to the bulk: what it met first is not like it
        window = Window(*(part[len(part) // 2 :] for part in window))
    if not _informative(window):
        return moved_to(metric, state, position, gradient)
    return moved_to(estimate(window, metric, cutoff), state, position, gradient)


def _informative(window: Window) -> bool:
    finite = np.isfinite(window.draws).all() and np.isfinite(window.gradients).all()
    moves = np.count_nonzero((np.diff(window.draws, axis=0) != 0).any(axis=1)) if finite else 0
    return bool(moves >= max(2, ENOUGH * len(window.draws)))


def window_of(metric: Metric, positions: np.ndarray, gradients: np.ndarray) -> Window:
    """The window that a recorded stretch of transitions makes."""
    return Window(np.asarray(positions, np.float64), original_gradients(metric, gradients))


def joined(first: Window, second: Window) -> Window:
    """One window after another."""
    return Window(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))


def empty_window(dim: int) -> Window:
    """No draws."""
    return Window(np.zeros((0, dim)), np.zeros((0, dim)))
