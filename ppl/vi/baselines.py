"""Baselines of the score function: numbers that are subtracted from the cost so that its estimator varies less.

    E[b d log p(x)] = 0  for every b that x does not influence,  so that no baseline changes the mean of the estimator

A baseline says what it is at a choice; one that learns from earlier evaluations keeps a state, which the caller of
`Objective.evaluate` carries from step to step.

Williams, *Simple statistical gradient-following algorithms* (1992); Mnih and Gregor, *Neural variational inference and
learning in belief networks* (2014); Mnih and Rezende, *Variational inference for Monte Carlo objectives* (2016).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, ArrayLike, Float

from ppl.distributions.density import log_prob
from ppl.distributions.drawn import law_of_draws
from ppl.distributions.scaled import Scaled
from ppl.distributions.wrapped import Wrapped
from ppl.errors import StrategyError
from ppl.vi.strategy import Node, Run

Memory = dict[str, Any]
"""The state of every baseline that has one, by the address of its choice."""


@runtime_checkable
class Baseline(Protocol):
    """A number that the choice at hand does not influence. Implementations are frozen dataclasses."""

    def at(self, node: Node, run: Run) -> Any:
        """What is subtracted from the cost at a choice."""
        ...


@runtime_checkable
class Remembers(Baseline, Protocol):
    """A baseline with a state."""

    def start(self) -> Any:
        """The state before the first evaluation."""
        ...

    def after(self, state: Any, cost: Any) -> Any:
        """The state after an evaluation that cost so much."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same number always."""

    value: float

    def at(self, node: Node, run: Run) -> Any:
        """The number."""
        del node, run
        return self.value


class Average(NamedTuple):
    """A sum of costs that forgets, and the sum of its weights; their ratio is the average."""

    total: Any
    weight: Any


@dataclass(frozen=True)
class MovingAverage:
    """The average of the costs of earlier evaluations; see `moving_average`."""

    decay: float

    def start(self) -> Average:
        """Nothing seen."""
        zero = jnp.zeros((), jnp.result_type(float))
        return Average(zero, zero)

    def at(self, node: Node, run: Run) -> Any:
        """The average so far; zero before the first cost, and where no memory was handed in."""
        if run.sign is None:
            raise StrategyError(
                f"The choice {node} has a moving average as its baseline, inside a nested expectation (vi.expect).\n"
                "Expected: a moving average in an objective itself, which is evaluated step after step.\n"
                "Fix: vi.score(vi.leave_one_out(), copies=4) there, or a constant baseline."
            )
        seen = run.memory.get(node.address, self.start())
        return jnp.where(seen.weight > 0, seen.total / jnp.where(seen.weight > 0, seen.weight, 1.0), 0.0)

    def after(self, state: Average, cost: Any) -> Average:
        """The average with one more cost; a cost that is not finite is passed over."""
        keep, finite = self.decay, jnp.isfinite(cost)
        total = keep * state.total + (1.0 - keep) * jnp.where(finite, cost, 0.0)
        weight = keep * state.weight + (1.0 - keep)
        return Average(jnp.where(finite, total, state.total), jnp.where(finite, weight, state.weight))


@dataclass(frozen=True)
class LeaveOneOut:
    """For each copy of a choice, the mean of the costs of the others; see `leave_one_out`."""

    def at(self, node: Node, run: Run) -> Any:
        """There is none for a single draw.

        Raises:
            StrategyError: always.
        """
        del run
        raise StrategyError(
            f"The choice {node} has the leave-one-out baseline for a single draw.\n"
            "Expected: vi.score(vi.leave_one_out(), copies=K) with K of 2 or more."
        )


def moving_average(decay: float = 0.9) -> MovingAverage:
    r"""The exponentially weighted mean of the costs of earlier evaluations, without the bias of its start.

    $b_t = \frac{\sum_{s<t} d^{t-1-s} c_s}{\sum_{s<t} d^{t-1-s}}$, zero at t = 0. It is a baseline of the objective's
    cost, whose state `Objective.evaluate` takes and returns (`vi.fit` carries it); where none is handed in, it is zero.

    Args:
        decay: How much of the past is kept at each step, d in [0, 1).

    Raises:
        StrategyError: for another decay.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @vi.objective
        ... def cost(p):
        ...     strategy = vi.score(baseline=vi.moving_average(0.5))
        ...     return 10.0 + ppl.sample("b", dist.Bernoulli(p), grad=strategy) * jax.numpy.zeros(())
        >>> memory = cost.memory(0.25)
        >>> first = cost.evaluate(0, 0.25, memory=memory)
        >>> second = cost.evaluate(0, 0.25, memory=first.memory)  # now the baseline is 10
        >>> abs(float(first.grads)) > 10.0, float(second.grads)
        (True, 0.0)
    """
    if not 0.0 <= decay < 1.0:
        raise StrategyError(f"vi.moving_average was given the decay {decay}.\nExpected: a number in [0, 1).")
    return MovingAverage(float(decay))


def leave_one_out() -> LeaveOneOut:
    """For each of several draws of a choice, the mean cost of the others: `vi.score(vi.leave_one_out(), copies=K)`."""
    return LeaveOneOut()


class Baselined(Wrapped):
    """A distribution that carries a baseline for its own score function; see `baseline`."""

    pytree_data_fields = ("value",)

    def __init__(self, base_dist: dist.Distribution, value: ArrayLike) -> None:
        self.value = value
        super().__init__(base_dist)

    def log_prob(self, value: ArrayLike, intermediates: list[Any] | None = None) -> Float[Array, "..."]:
        """The distribution's log density, in nats."""
        del intermediates
        return log_prob(self.base_dist, value)


@law_of_draws.register
def _baselined(distribution: Baselined) -> dist.Distribution:
    return law_of_draws(distribution.base_dist)


def baseline(distribution: dist.Distribution, value: ArrayLike) -> Baselined:
    r"""A distribution whose choice, under `vi.score`, has `value` subtracted from its cost; `value` learns.

    Beside the gradient of the objective, the gradient of the parameters holds that of the regression
    $\tfrac12 (\mathrm{cost} - b)^2$, which is made small whether the objective is made large or small. It is not
    part of the objective's gradient: it reaches all that `value` is computed from, which should be parameters of its
    own, and data or choices held fixed (`jax.lax.stop_gradient`; those of `vi.score` are).

    Args:
        distribution: The law of the choice.
        value: The baseline b, a scalar or one number for each element of the batch. The choice must not influence it.

    Raises:
        StrategyError: for something that is no distribution, or a value whose shape does not fit.

    Examples:
        >>> import jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @vi.objective
        ... def cost(params):
        ...     coin = vi.baseline(dist.Bernoulli(params["p"]), params["b"])
        ...     return 10.0 + 0.0 * ppl.sample("z", coin, grad=vi.score())
        >>> grads = cost.grad(0, {"p": 0.25, "b": 10.0})  # the baseline is right: nothing is left to vary
        >>> float(grads["p"]), float(grads["b"])
        (0.0, 0.0)
        >>> float(cost.grad(0, {"p": 0.25, "b": 7.0})["b"])  # a step downhill makes it larger
        -3.0
    """
    if not isinstance(distribution, dist.Distribution):
        raise StrategyError(
            f"vi.baseline was given a {type(distribution).__name__}.\nExpected: a distribution of ppl.distributions."
        )
    if jnp.shape(value) not in ((), tuple(distribution.batch_shape)):
        raise StrategyError(
            f"vi.baseline was given a value of shape {jnp.shape(value)} for a {type(distribution).__name__} of batch "
            f"shape {tuple(distribution.batch_shape)}.\nExpected: a scalar, or one number an element of the batch."
        )
    return Baselined(distribution, value)


def learned(measure: Any) -> Any | None:
    """The baseline that a measure carries under masks, scales and plates."""
    if isinstance(measure, Baselined):
        return measure.value
    wrapped = isinstance(measure, Scaled | dist.MaskedDistribution | dist.ExpandedDistribution | dist.Independent)
    return learned(measure.base_dist) if wrapped else None


def started(baselines: Mapping[str, Baseline]) -> Memory:
    """The state of every baseline that has one, before the first evaluation."""
    return {address: b.start() for address, b in baselines.items() if isinstance(b, Remembers)}


def remembered(baselines: Mapping[str, Baseline], memory: Mapping[str, Any], cost: Any) -> Memory:
    """The states after an evaluation."""
    before = {**started(baselines), **memory}
    return {address: b.after(before[address], cost) for address, b in baselines.items() if isinstance(b, Remembers)}
