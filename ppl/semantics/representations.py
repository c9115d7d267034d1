"""Inference representations and their meaning.

A representation is a program whose value is a *carrier* (a weighted value, a population, a suspended run); its
meaning is the measure that it stands for on average. Scibior et al., *Denotational validation of higher-order
Bayesian inference* (POPL 2018). A transformation between representations is valid when it preserves the meaning;
valid ones compose.

`meaning` is exact: it enumerates the representation's own coin flips, so it needs them to be finite. It gives a
`FiniteMeasure` of the represented values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, singledispatch
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppl.distributions.drawn import law_of_draws
from ppl.errors import MeasureError
from ppl.semantics.enumeration import DEFAULT_LIMIT, support_rows
from ppl.semantics.finite import FiniteMeasure
from ppl.semantics.lanes import vmap
from ppl.semantics.language import sample
from ppl.semantics.opening import density_of
from ppl.semantics.program import Program
from ppl.semantics.protocol import Outcome, Position, SampleSite
from ppl.semantics.rewrites import Rewrite, bind_again
from ppl.semantics.scoring import log_ratio
from ppl.semantics.site import Site


class Particle(NamedTuple):
    """A value with a log weight, in nats; a population holds a batch of them along the leading axis."""

    value: Any
    log_weight: Any


@dataclass(frozen=True, eq=False)
class Weighted:
    """A program whose value is a `Particle`: it stands for E[exp(log_weight) * point mass at value]."""

    program: Program


@dataclass(frozen=True, eq=False)
class Population:
    """A program whose value is a batch of `n` particles: it stands for E[sum of the weighted point masses]."""

    program: Program
    n: int


@dataclass(frozen=True, eq=False)
class Traced:
    """A program seen through its traces: it stands for the push-forward of the density over choices by the value."""

    program: Program


class Kept(NamedTuple):
    """What to read at a latent site that some particles draw and others are given: the value; whether to take it."""

    value: Any
    take: Any


class WeighSites(Rewrite):
    """Keep latent choices; turn observations and factors into a log weight. A read is a `Kept`."""

    def zero(self) -> Any:
        """Weight one."""
        return jnp.zeros((), jnp.result_type(float))

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """A latent choice is bound again; an observation weighs."""
        del where
        if node.observed is None:
            law = law_of_draws(node.measure)
            value = bind_again(node._replace(measure=law))
            if read is not None:
                value = jax.tree.map(partial(jnp.where, read.take), read.value, value)
            excess = self.zero() if law is node.measure else log_ratio(node.measure, law, value)
            return Outcome(value, excess)
        return Outcome(node.observed, density_of(node, node.observed))

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """A factor weighs."""
        del site, where
        return Outcome(None, jnp.sum(log_weight).astype(jnp.result_type(float)))


class WeighAndWrite(WeighSites):
    """`WeighSites` that also writes choices and recorded values."""

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Write a choice."""
        outcome = super().sample(node, read, where)
        return outcome._replace(write=outcome.value) if node.observed is None else outcome

    def deterministic(self, site: Site, value: Any, where: Position) -> Outcome:
        """Write a value."""
        return super().deterministic(site, value, where)._replace(write=value)


def weigh(program: Program) -> Particle:
    """Bind a program's latent choices in the model being traced; its observations and factors become the log weight."""
    value, result = program.run(WeighSites())
    return Particle(value, result.total)


def weighted(program: Program) -> Weighted:
    """The weighted sampler of a program: its own choices, and the weight of its observations and factors."""
    return Weighted(Program.of(weigh, (program,)))


def population(program: Program, n: int) -> Population:
    """`n` independent runs of the weighted sampler, each with weight `1/n`."""
    return Population(Program.of(_spread, (weighted(program).program,), {"n": n}), n)


def _spread(program: Program, n: int) -> Particle:
    particles = vmap(lambda: sample("particle", program), axis_size=n)()
    return particles._replace(log_weight=particles.log_weight - jnp.log(n))


def layer_of(particles: Particle) -> Any:
    """Particles at hand in the model being traced, as a transformer takes them: `Weighted` or `Population`."""
    program = Program.of(_given, (particles,))
    return Population(program, particles.log_weight.shape[0]) if particles.log_weight.ndim else Weighted(program)


def _given(particles: Particle) -> Particle:
    return particles


# --- meaning ---------------------------------------------------------------------------------------------------------


@singledispatch
def meaning(representation: Any, limit: int = DEFAULT_LIMIT) -> FiniteMeasure:
    """The measure that a representation stands for, exactly.

    Args:
        representation: A `Program`, `Weighted`, `Population`, `Suspended`, `Traced` or `FiniteMeasure` whose coin flips
            are finite.
        limit: The most rows to enumerate.

    Raises:
        NotFiniteError, EnumerationSizeError: where it cannot be enumerated.
    """
    del limit
    raise MeasureError(
        f"No meaning is known for {type(representation).__name__!r}.\n"
        "Expected: a Program or a representation. Register one with `meaning.register(YourClass)`."
    )


@meaning.register
def _(representation: FiniteMeasure, limit: int = DEFAULT_LIMIT) -> FiniteMeasure:
    del limit
    return FiniteMeasure(representation.log_weights, representation.values)


@meaning.register
def _(representation: Program, limit: int = DEFAULT_LIMIT) -> FiniteMeasure:
    found = representation.enumerate(limit)
    return FiniteMeasure(found.log_weights, found.values)


@meaning.register
def _(representation: Weighted, limit: int = DEFAULT_LIMIT) -> FiniteMeasure:
    found = representation.program.enumerate(limit)
    return FiniteMeasure(found.log_weights + found.values.log_weight, found.values.value)


@meaning.register
def _(representation: Population, limit: int = DEFAULT_LIMIT) -> FiniteMeasure:
    found = representation.program.enumerate(limit)
    joint = found.log_weights[:, None] + found.values.log_weight
    values = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found.values.value)
    return FiniteMeasure(joint.reshape(-1), values)


@meaning.register
def _(representation: Traced, limit: int = DEFAULT_LIMIT) -> FiniteMeasure:
    program = representation.program
    rows, distinct = support_rows(program, limit)
    log_density, values = _scored(program, rows)
    return FiniteMeasure(jnp.where(distinct, log_density, -jnp.inf), values)


@jax.jit
def _scored(program: Program, rows: dict[str, Any]) -> Any:
    def one(choices: dict[str, Any]) -> Any:
        trace = program.replay(choices)
        return program.log_density(choices), trace.value

    count = len(next(iter(rows.values()))) if rows else 1
    return jax.vmap(one, axis_size=count)(rows)


# --- unit and bind ---------------------------------------------------------------------------------------------------


def unit(value: Any, representation: type = Program) -> Any:
    """The point mass at a value, in any representation: `Program`, `Weighted`, `Population`, `Traced`, `FiniteMeasure`.

    Args:
        value: A pytree of arrays.
        representation: The class of the result.

    Example:
        >>> import jax.numpy as jnp
        >>> unit(jnp.array(3), FiniteMeasure).mass.item()
        1.0
    """
    if representation not in _UNITS:
        names = ", ".join(kind.__name__ for kind in _UNITS)
        raise MeasureError(f"unit was asked for {representation!r}.\nExpected: one of the classes {names}.")
    return _UNITS[representation](value)


def _constant(value: Any) -> Any:
    return jax.tree.map(jnp.asarray, value)


def _program_unit(value: Any) -> Program:
    return Program.of(_constant, (value,))


def _finite_unit(value: Any) -> FiniteMeasure:
    return FiniteMeasure(jnp.zeros(1), jax.tree.map(lambda x: jnp.asarray(x)[None], value))


_UNITS: dict[type, Callable[[Any], Any]] = {
    Program: _program_unit,
    Weighted: lambda value: weighted(_program_unit(value)),
    Population: lambda value: population(_program_unit(value), 1),
    Traced: lambda value: Traced(_program_unit(value)),
    FiniteMeasure: _finite_unit,
}


@singledispatch
def bind(representation: Any, kernel: Callable[[Any], Any]) -> Any:
    """Follow a representation by a kernel `value -> representation` of the same kind: integrate the kernel over it."""
    raise MeasureError(f"bind is not defined for {type(representation).__name__!r}.")


@bind.register
def _(representation: Program, kernel: Callable[[Any], Program]) -> Program:
    return Program.of(_bound, (representation,), {"kernel": kernel})


def _bound(program: Program, kernel: Callable[[Any], Program]) -> Any:
    return sample("then", kernel(sample("first", program)))


@bind.register
def _(representation: Weighted, kernel: Callable[[Any], Weighted]) -> Weighted:
    return Weighted(Program.of(_bound_weighted, (representation.program,), {"kernel": kernel}))


def _bound_weighted(program: Program, kernel: Callable[[Any], Weighted]) -> Particle:
    first = sample("first", program)
    then = sample("then", kernel(first.value).program)
    return Particle(then.value, first.log_weight + then.log_weight)


@bind.register
def _(representation: Population, kernel: Callable[[Any], Population]) -> Population:
    program = Program.of(_bound_population, (representation.program,), {"kernel": kernel})
    return Population(program, program.staged.out_avals[-1].shape[0])


def _bound_population(program: Program, kernel: Callable[[Any], Population]) -> Particle:
    def follow(particle: Particle) -> Particle:
        then = sample("then", kernel(particle.value).program)
        return Particle(then.value, particle.log_weight + then.log_weight)

    followed = vmap(follow)(sample("first", program))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), followed)


@bind.register
def _(representation: Traced, kernel: Callable[[Any], Traced]) -> Traced:
    return Traced(Program.of(_bound_traced, (representation.program,), {"kernel": kernel}))


def _bound_traced(program: Program, kernel: Callable[[Any], Traced]) -> Any:
    return sample("then", kernel(sample("first", program)).program)


@bind.register
def _(representation: FiniteMeasure, kernel: Callable[[Any], FiniteMeasure]) -> FiniteMeasure:
    inner = jax.vmap(kernel)(representation.values)
    joint = representation.log_weights[:, None] + inner.log_weights
    return FiniteMeasure(joint.reshape(-1), jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), inner.values))
