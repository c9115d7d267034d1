"""`vi.fit`: an objective made large (or small) by any optax optimiser, in compiled stretches that can be interrupted.

Law: what a fit gives depends on its arguments alone: not on the clock, on how it was cut into stretches, or on whether
it was interrupted and resumed (bit for bit).
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from ppl.errors import FitError
from ppl.inference.method import positive
from ppl.inference.progress import Progress, Reporter
from ppl.semantics.keys import as_key
from ppl.vi.fit_batches import batches_of
from ppl.vi.fit_checkpoint import FitCheckpoint
from ppl.vi.fit_failure import explain
from ppl.vi.fit_optimizer import comparable
from ppl.vi.fit_steps import Problem, State, advance, begun
from ppl.vi.fit_stop import StopRule
from ppl.vi.objective import Objective

SLICE = 0.25
"""Seconds that a stretch is to take: a bar moves, and Ctrl-C is heard, so often."""
LAST = 0.1
"""The share of the steps whose mean objective a fit is judged by."""

Reason = Literal["steps", "stop", "interrupted", "not finite"]


@dataclass(frozen=True, eq=False, repr=False)
class Restart:
    """One of several fits side by side.

    Attributes:
        params: The parameters after the last step that was finite.
        history: The objective's estimate at each step, before its update.
        stopped: Why it ended.
    """

    params: Any
    history: Float[np.ndarray, "steps"]
    stopped: Reason

    @property
    def average(self) -> float:
        """The mean of the objective over the last tenth of the steps; NaN without any."""
        last = self.history[-max(1, int(LAST * len(self.history))) :]
        return float(last.mean()) if len(last) else float("nan")


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """What `vi.fit` found; with several restarts, the best one by its final average.

    Attributes:
        params: The parameters after the last step.
        history: The objective's estimate at each step, before its update; as long as there were steps.
        stopped: Why it ended: "steps" (all made), "stop" (the rule), "interrupted", "not finite".
        objective: The objective.
        optimizer_state: The optimiser's last state.
        memory: What the objective's baselines remember.
        restarts: All of them, the best one included.
        best: The number of the best one.
    """

    params: Any
    history: Float[np.ndarray, "steps"]
    stopped: Reason
    objective: Objective
    optimizer_state: Any
    memory: Any
    restarts: tuple[Restart, ...]
    best: int

    @property
    def steps(self) -> int:
        """Steps made."""
        return len(self.history)

    @property
    def average(self) -> float:
        """The mean of the objective over the last tenth of the steps."""
        return self.restarts[self.best].average

    def __repr__(self) -> str:
        """One line."""
        others = "" if len(self.restarts) == 1 else f", the best of {len(self.restarts)} restarts"
        return f"<fit of {self.objective!r}: {self.average:.6g} after {self.steps} steps ({self.stopped}){others}>"


class Track(NamedTuple):
    """A fit on its way: the state, and the objective's values so far, stretch by stretch."""

    state: State
    values: tuple[np.ndarray, ...] = ()

    @property
    def step(self) -> int:
        """Steps made by those that are alive."""
        return sum(part.shape[1] for part in self.values)

    def history(self, restart: int) -> np.ndarray:
        """The values of a restart, as far as it came."""
        parts = [part[restart] for part in self.values] or [np.zeros(0)]
        return np.concatenate(parts)[: int(self.state.done[restart])]


def fit(
    objective: Objective,
    params: Any,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    key: Any,
    args: tuple[Any, ...] = (),
    batch_size: int | None = None,
    restarts: int = 1,
    init: Callable[[Any], Any] | None = None,
    stop: StopRule | None = None,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    chunk: int = 1000,
) -> Fit:
    """Fit an objective's parameters by stochastic gradients.

    Args:
        objective: What is made large where `objective.maximize`, else small.
        params: Where to start: any pytree (an equinox module too); its float leaves are fitted.
        optimizer: Any optax optimiser; clipping, schedules and decay are its business.
        steps: How many steps.
        key: An int seed or a JAX key. Step t has a key of its own, whatever came before.
        args: The objective's further arguments.
        batch_size: Cut every array in `args` along its first axis, the axis of the data, and give each step so many, in
            epochs shuffled anew (None: all data at every step). The objective must scale what it sees to all of them.
        restarts: Fits side by side, each with keys of its own.
        init: From a key to parameters: the starts of the restarts after the first, which starts at `params`. Without
            it all start there, and differ in their noise.
        stop: When to stop early, such as `vi.Plateau()`; with restarts, when all of them say so.
        progress: Whether to show a bar with objective and time left; by default in a terminal or a notebook.
        checkpoint: A file to which the fit is saved from time to time, and from which it goes on, bit for bit.
        chunk: The most steps between two looks at the clock.

    Returns:
        A `Fit`; after Ctrl-C, what there is so far.

    Raises:
        FitError: value, gradient or update was not finite at some step (in all restarts); the message names the site,
            and `error.fit` has the parameters before that step.
        FileFormatError: the checkpoint is of another fit.

    Examples:
        >>> import optax, ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @vi.objective
        ... def cost(mean):
        ...     return (ppl.sample("x", dist.Normal(mean, 1.0)) - 3.0) ** 2
        >>> found = vi.fit(cost, 0.0, optimizer=optax.sgd(0.01), steps=1000, key=0)
        >>> bool(abs(found.params - 3.0) < 0.5), len(found.history)
        (True, 1000)
    """
    positive("steps", steps)
    positive("chunk", chunk)
    problem, free = _problem(objective, params, optimizer, key, args, batch_size, positive("restarts", restarts), init)
    track, save = Track(begun(problem, free)), None
    if checkpoint is not None:
        save = FitCheckpoint(checkpoint, problem, free)
        state, values = save.load(track.state)
        track = Track(state, values)
    run = _Run(problem, steps, stop, chunk, save)
    with Reporter(steps, show=progress, done=track.step) as reporter:
        track, reason = run.through(track, reporter)
    found = _found(problem, track, reason)
    if not np.asarray(track.state.alive).any():
        raise _failed(problem, track, found)
    return found


def _problem(
    objective: Objective,
    params: Any,
    optimizer: optax.GradientTransformation,
    key: Any,
    args: tuple[Any, ...],
    batch_size: int | None,
    restarts: int,
    init: Callable[[Any], Any] | None,
) -> tuple[Problem, Any]:
    if not isinstance(objective, Objective):
        raise TypeError(
            f"vi.fit was given a {type(objective).__name__}.\n"
            "Expected: an objective: vi.elbo(model, guide), or a function decorated with @vi.objective."
        )
    base, args = as_key(key), jax.tree.map(_as_array, args)
    free, fixed = eqx.partition(params, eqx.is_inexact_array_like)
    if not jax.tree.leaves(free):
        raise ValueError(f"params has no float leaves to fit.\nGot: {jax.tree.structure(params)}.")
    keys = base[None] if restarts == 1 else jax.random.split(base, restarts)
    others = [params if init is None else init(own) for own in keys[1:]]
    starts = [free, *(eqx.filter(other, eqx.is_inexact_array_like) for other in others)]
    stacked = jax.tree.map(lambda *xs: jnp.stack([jnp.asarray(x) for x in xs]), *starts)
    batches, function = batches_of(args, batch_size), objective.function
    setting = (objective.maximize, objective.copies, jax.tree.map(_as_array, fixed), args)
    return Problem(function, objective.bound, *setting, comparable(optimizer), batches, base, keys), stacked


def _as_array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf


class _Run(NamedTuple):
    """How a fit runs: up to which step, and who is asked or told between stretches."""

    problem: Problem
    steps: int
    stop: StopRule | None
    chunk: int
    save: FitCheckpoint | None

    def through(self, track: Track, reporter: Reporter) -> tuple[Track, Reason]:
        """Make the steps that are left; the track, and why it ended."""
        budget: int = 1
        try:
            while (reason := self.ended(track)) is None:
                count, begin = min(budget, self.left(track)), time.perf_counter()
                track = self.advanced(track, count, reporter)
                seconds = max(time.perf_counter() - begin, 1e-6)
                budget = max(1, min(self.chunk, int(count * SLICE / seconds), 100 * budget))
                if self.save is not None:
                    self.save(track.state, track.values, lazily=True)
        except KeyboardInterrupt:
            if not track.step:
                raise
            reason = "interrupted"
        if self.save is not None:
            self.save(track.state, track.values)
        return track, reason

    def ended(self, track: Track) -> Reason | None:
        """Why a fit is done; None: it is not."""
        alive = np.flatnonzero(np.asarray(track.state.alive)).tolist()
        if not alive:
            return "not finite"
        rule = self.stop
        asked = rule is not None and track.step and track.step % rule.window == 0
        if rule is not None and asked and all(rule(track.history(restart)) for restart in alive):
            return "stop"
        return "steps" if track.step >= self.steps else None

    def left(self, track: Track) -> int:
        """Steps up to the end, or to the next question of the rule that stops."""
        left = self.steps - track.step
        return left if self.stop is None else min(left, self.stop.window - track.step % self.stop.window)

    def advanced(self, track: Track, count: int, reporter: Reporter) -> Track:
        """The track some steps on."""
        begin, number = jnp.int32(track.step), jnp.int32(count)
        state, table = advance(self.problem, track.state, begin, number, self.chunk)
        made = int(np.max(state.done)) - track.step
        values = np.asarray(table[:, :made])
        now = values[np.asarray(state.alive)]
        numbers = {"objective": f"{now.mean():.5g}"} if now.size else {}
        reporter.add(Progress(made, phase="fit", numbers=numbers))
        return Track(state, (*track.values, values))


def _found(problem: Problem, track: Track, reason: Reason) -> Fit:
    alive = np.asarray(track.state.alive)
    restarts = tuple(
        Restart(_params(problem, track.state, i), track.history(i), reason if alive[i] else "not finite")
        for i in range(len(alive))
    )
    sign = problem.objective.sign
    scores = [sign * one.average if ok else -np.inf for one, ok in zip(restarts, alive, strict=True)]
    best = int(np.argmax(scores))
    state, one = _of(track.state, best), restarts[best]
    return Fit(one.params, one.history, one.stopped, problem.objective, state.optimizer, state.memory, restarts, best)


def _of(state: State, restart: int) -> State:
    return jax.tree.map(lambda x: x[restart], state)


def _params(problem: Problem, state: State, restart: int) -> Any:
    return eqx.combine(_of(state, restart).params, problem.fixed)


def _failed(problem: Problem, track: Track, found: Fit) -> FitError:
    last = int(np.argmax(np.asarray(track.state.done)))
    state = _of(track.state, last)
    step = int(state.done)
    told = explain(problem, state, jax.random.fold_in(problem.keys[last], step), step)
    error = FitError(
        f"{told}\n"
        "Likely causes: a step size that is too large (clip gradients with optax.clip_by_global_norm, or lower it), a "
        "scale that reaches zero, a guide whose support is not inside the model's.\n"
        "The parameters before that step are in error.fit.params, the objective's values in error.fit.history."
    )
    error.fit = found
    return error
