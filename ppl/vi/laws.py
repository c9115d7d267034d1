"""Is an objective's estimator unbiased? Exactly, where every choice is finite; by many evaluations, where one is not.

    E[value] = E[cost]        E[grads] = d/d params E[cost]

Exactly: all noise of the estimator is summed out, and the result is compared with the enumerated program, which knows
nothing of strategies. By many evaluations: means are compared with a function that is known to be right, or with finite
differences of the objective's own values at the same keys. A baseline that learns leaves a regression in the gradient
of its own parameters: hand those in as further arguments, which are not differentiated.
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ppl.errors import EnumerationSizeError, LawViolation, NotFiniteError, StrategyError, UnsupportedPrimitiveError
from ppl.semantics.keys import as_key
from ppl.vi.objective import Objective, as_arrays

RATE = 1e-6
"""The probability that a right estimator is reported."""
_MOST_DIRECTIONS = 8


class Gap(NamedTuple):
    """The largest differences of an estimator's means from what they should be, in value and in gradient."""

    value: float
    gradient: float


class EstimatorReport(NamedTuple):
    """What a check of an estimator found.

    Attributes:
        exact: Whether all noise was summed out.
        gap: The largest differences; for a statistical check in standard errors.
        allowed: What they may be.
    """

    exact: bool
    gap: Gap
    allowed: float


def gradient_gap(objective: Objective, params: Any, *args: Any) -> Gap:
    """How far an estimator's exact means are from value and gradient of the enumerated objective.

    Args:
        objective: An objective whose choices are all finite.
        params: The parameters; float leaves are differentiated.
        *args: Its further arguments.

    Raises:
        StrategyError, NotFiniteError: a choice is not finite.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @vi.objective
        ... def cost(p):
        ...     return p * ppl.sample("b", dist.Bernoulli(p), grad=vi.score(0.5)).astype(float)
        >>> max(gradient_gap(cost, 0.25)) < 1e-6
        True
    """
    flat, params_of, function = _flat(objective, params, args)

    def wanted(flat: Any) -> Any:
        measure = function(flat).enumerate()
        return jnp.sum(measure.weights * measure.values)

    def got(flat: Any) -> Any:
        return objective.expect(params_of(flat), *args)

    (right, right_slope), (value, slope) = jax.value_and_grad(wanted)(flat), jax.value_and_grad(got)(flat)
    return Gap(abs(float(value - right)), float(jnp.max(jnp.abs(slope - right_slope))))


def check_estimator(
    objective: Objective,
    params: Any,
    *args: Any,
    key: Any = 0,
    exact: Callable[..., Any] | None = None,
    replicates: int = 4000,
    width: float = 0.02,
    atol: float | None = None,
) -> EstimatorReport:
    """Check that an objective's value and gradient are unbiased.

    Where every choice is finite, without noise (`gradient_gap`). Else by independent evaluations: z-tests of the value
    and of derivatives along the parameters (along eight random directions where there are more), two-sided, all
    together with a false-alarm rate of 1e-6. They compare with `exact`, or with fourth-order central differences of
    the objective's values at the same keys, which detect less where choices are discrete, and whose own error is of the
    order of `width ** 4`; the value then has nothing to be compared with.

    Args:
        objective: The objective.
        params: Its parameters.
        *args: Its further arguments.
        key: A JAX key (or an int seed).
        exact: `exact(params, *args)`, the expected cost, differentiable.
        replicates: How many evaluations.
        width: The step of the finite differences.
        atol: The allowed gap of an exact check; by default 1e-8 in float64, 1e-4 in float32, relative above 1.

    Raises:
        LawViolation: the estimator is biased.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @vi.objective
        ... def cost(mean):
        ...     return ppl.sample("x", dist.Normal(mean, 1.0), grad=vi.score()) ** 2
        >>> ppl.testing.check_estimator(cost, 0.5, exact=lambda mean: mean**2 + 1.0, replicates=500).exact
        False
    """
    allowed = atol if atol is not None else (1e-8 if jax.config.read("jax_enable_x64") else 1e-4)
    try:
        gap = gradient_gap(objective, params, *args)
    except (StrategyError, NotFiniteError, EnumerationSizeError, UnsupportedPrimitiveError):
        return _by_evaluations(objective, params, args, as_key(key), exact, replicates, width)
    allowed *= max(1.0, abs(float(objective.expect(params, *args))))
    return _judged(objective, EstimatorReport(exact=True, gap=gap, allowed=allowed))


def _judged(objective: Objective, report: EstimatorReport) -> EstimatorReport:
    if all(gap <= report.allowed for gap in report.gap):
        return report
    how = "exactly, all noise summed out" if report.exact else "in standard errors of the mean"
    raise LawViolation(
        f"The estimator of {objective} is biased: its value is off by {report.gap.value:.3g}, its gradient by "
        f"{report.gap.gradient:.3g} ({how}; allowed {report.allowed:.3g}).\n"
        "Look for: a strategy that the choice does not allow (vi.check(objective, params) names those that it finds), "
        "a jax.lax.stop_gradient on something that depends on the parameters, a strategy of your own."
    )


def _by_evaluations(
    objective: Objective, params: Any, args: Any, key: Any, exact: Any, replicates: int, width: float
) -> EstimatorReport:
    flat, params_of, _ = _flat(objective, params, args)
    for_directions, for_runs = jax.random.split(key)
    directions = _directions(for_directions, flat)

    def run(key: Any) -> tuple[Any, Any]:
        value, grads = objective.value_and_grad(key, params_of(flat), *args)
        return value, directions @ ravel_pytree(grads)[0]

    def by_differences(key: Any) -> Any:
        def value(step: Any) -> Any:
            return jax.vmap(lambda d: objective.value(key, params_of(flat + step * d), *args))(directions)

        return (8 * (value(width) - value(-width)) - (value(2 * width) - value(-2 * width))) / (12 * width)

    keys = jax.random.split(for_runs, replicates)
    values, slopes = jax.jit(jax.vmap(run))(keys)
    if exact is None:
        errors = slopes - jax.jit(jax.vmap(by_differences))(keys)
        gap = Gap(0.0, _largest(errors))
    else:
        right, slope = jax.value_and_grad(lambda flat: exact(params_of(flat), *args))(flat)
        gap = Gap(_largest((values - right)[:, None]), _largest(slopes - (directions @ slope)[None]))
    tests = len(directions) + (exact is not None)
    allowed = NormalDist().inv_cdf(1.0 - RATE / (2 * tests))
    return _judged(objective, EstimatorReport(exact=False, gap=gap, allowed=allowed))


def _largest(errors: Any) -> float:
    """The largest mean, in standard errors; means within rounding count as zero."""
    errors = np.asarray(errors, float)
    mean, sd = errors.mean(axis=0), errors.std(axis=0, ddof=1) / np.sqrt(len(errors))
    rounding = 1e-5 * np.maximum(1.0, np.abs(errors).max())
    return float(np.max(np.abs(mean) / np.maximum(sd, rounding)))


def _directions(key: Any, flat: Any) -> Any:
    if flat.size <= _MOST_DIRECTIONS:
        return jnp.eye(flat.size, dtype=flat.dtype)
    return jax.random.normal(key, (_MOST_DIRECTIONS, flat.size), flat.dtype) / jnp.sqrt(flat.size)


def _flat(objective: Objective, params: Any, args: Any) -> tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]:
    """The parameters as a vector, the way back, and the objective at a vector."""
    flat, params_of = ravel_pytree(as_arrays(params))
    return flat, params_of, lambda flat: objective(params_of(flat), *args)
