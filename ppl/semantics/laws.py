"""The law of valid transformations, for our own suite and for users: a transformation preserves the measure, exactly.

    meaning(t(representation)) == meaning(representation)

for every program of a battery of small finite programs that have what breaks wrong transformations: asymmetric weights,
zero weights, branches whose scores do not line up, scores in a loop, an observation. No Monte Carlo: both sides are
enumerated, coin flips of the transformation included.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

from ppl.errors import LawViolation
from ppl.semantics.finite import FiniteMeasure
from ppl.semantics.language import factor, sample
from ppl.semantics.model import model
from ppl.semantics.program import Program
from ppl.semantics.representations import meaning, population


class LawReport(NamedTuple):
    """What a check did: how many programs, and the largest difference of mass that it met."""

    programs: int
    largest_difference: float


@model
def straight(log_weights: Any) -> Any:
    """Two dependent choices, a weight between them, an observation at the end."""
    a = sample("a", dist.Bernoulli(0.25))
    factor("w", log_weights[a])
    b = sample("b", dist.Bernoulli(jnp.where(a == 1, 0.75, 0.125)))
    sample("o", dist.Bernoulli(jnp.where(b == 1, 0.875, 0.25)), obs=jnp.array(1))
    return a + 2 * b


@model
def branching(log_weights: Any) -> Any:
    """Branches with different numbers of choices and scores that do not line up."""

    def one() -> Any:
        u = sample("u", dist.Categorical(probs=jnp.array([0.5, 0.25, 0.25])))
        factor("once", log_weights[jnp.minimum(u, 1)])
        return u

    def other() -> Any:
        v = sample("v", dist.Bernoulli(0.375))
        factor("first", log_weights[v])
        factor("second", log_weights[1 - v] - 0.5)
        return v + 3

    return lax.cond(sample("a", dist.Bernoulli(0.625)) == 1, one, other)


@model
def looping(log_weights: Any) -> Any:
    """A chain of choices with a weight at each step."""

    def step(state: Any, scale: Any) -> Any:
        state = sample("z", dist.Bernoulli(jnp.where(state == 1, 0.75, 0.125)))
        factor("w", scale * log_weights[state])
        return state, state

    last, states = lax.scan(step, sample("start", dist.Bernoulli(0.25)), jnp.array([1.0, 0.5]))
    return last + 2 * states[0]


@model
def silent(log_weights: Any) -> Any:
    """A choice and no score at all."""
    del log_weights
    return sample("a", dist.Categorical(probs=jnp.array([0.125, 0.25, 0.625])))


def finite_programs() -> list[Program]:
    """The battery: small finite programs, with ordinary and with zero weights."""
    ordinary, zero = jnp.array([-0.25, -1.5]), jnp.array([-jnp.inf, -0.5])
    return [make(weights) for make in (straight, branching, looping, silent) for weights in (ordinary, zero)]


def check_transformer(
    transformer: Callable[[Any], Any],
    source: Callable[[Program], Any] | None = None,
    programs: Sequence[Program] | None = None,
    atol: float | None = None,
) -> LawReport:
    """Check that a transformation of representations preserves the measure, exactly.

    Args:
        transformer: The transformation under test.
        source: Makes the representation that it takes from a program; by default a population of two particles.
        programs: Finite programs to try; by default a battery that kills the usual mistakes.
        atol: The largest difference of mass allowed; by default 1e-10 in double and 1e-5 in single precision.

    Returns:
        A `LawReport`.

    Raises:
        LawViolation: with the program and the values whose masses differ.

    Examples:
        >>> import ppl, ppl.testing
        >>> ppl.testing.check_transformer(ppl.resample("systematic")).programs
        8
    """
    make = source if source is not None else lambda program: population(program, 2)
    battery = list(programs) if programs is not None else finite_programs()
    allowed = atol if atol is not None else (1e-10 if jax.config.read("jax_enable_x64") else 1e-5)
    worst = 0.0
    for program in battery:
        before = make(program)
        wanted, got = meaning(before), meaning(transformer(before))
        difference = wanted.distance(got)
        if not difference <= allowed:
            raise LawViolation(_violation(transformer, program, wanted, got, difference))
        worst = max(worst, difference)
    return LawReport(len(battery), worst)


def _violation(transformer: Any, program: Program, wanted: FiniteMeasure, got: FiniteMeasure, difference: float) -> str:
    name = getattr(transformer, "__qualname__", repr(transformer))
    return (
        f"The transformation {name} does not preserve the measure of the program {program.name!r}: a mass is off by "
        f"{difference:.3g}.\nExpected (meaning before):\n{wanted}\nGot (meaning after):\n{got}"
    )
