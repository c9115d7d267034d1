r"""The geometric path from one program to another over the same choices, as programs and as densities of vectors.

    path.at(beta): the measure  q(x)^(1 - beta) p(x)^beta,      beta from 0 (q) to 1 (p)

q is the program's prior where no other start is given, and the path is prior(x) likelihood(x)^beta. Law: the log weight
of a step from beta to beta' is (beta' - beta) (log p(x) - log q(x)), so that one number a particle,
`log_ratio`, says all about reweighting. A program is reached by drawing from `path.start` and weighing.

Reference: Gelman and Meng, "Simulating normalizing constants", Statistical Science 13 (1998).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ppl.errors import AddressError, MeasureError
from ppl.inference.flat import Flat, FlatDensity
from ppl.inference.kernels import State
from ppl.inference.summed import Summed
from ppl.inference.tempering import Temper, log_likelihood, tempered_program
from ppl.semantics import choices as ch
from ppl.semantics.handlers import Density
from ppl.semantics.language import factor
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Outcome, Position, SampleSite
from ppl.semantics.representations import Particle, WeighAndWrite
from ppl.semantics.rewrites import bind_again
from ppl.semantics.scoring import total_log_prob
from ppl.semantics.site import Site


class Densities(NamedTuple):
    """What a path needs to know of a point: log q, and log p - log q (nats)."""

    start: Any
    ratio: Any

    def at(self, beta: Any) -> Any:
        """The log density at an inverse temperature; minus infinity where q or, for beta > 0, p is zero."""
        dead = jnp.isneginf(self.start) | (jnp.isneginf(self.ratio) & (beta > 0))
        return jnp.where(dead, -jnp.inf, self.start + beta * self.ratio)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class TemperingPath:
    """The path from `initial` (None: the program's prior) to a program; a pytree.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def coin():
        ...     x = ppl.sample("x", dist.Bernoulli(0.25))
        ...     ppl.factor("f", 2.0 * x)
        >>> float(TemperingPath(coin()).log_ratio({"x": jnp.array(1)}))
        2.0
    """

    program: Program
    initial: Program | None = None

    @property
    def start(self) -> Program:
        """The program with the measure q."""
        return tempered_program(self.program, 0.0) if self.initial is None else self.initial

    def at(self, beta: Float[Array, ""] | float) -> Program:
        """The program with the measure q^(1 - beta) p^beta."""
        if self.initial is None:
            return tempered_program(self.program, beta)
        return Program.of(_bridge, (self.program, self.initial, jnp.asarray(beta, jnp.result_type(float))))

    def log_ratio(self, choices: Choices) -> Float[Array, ""]:
        """Log p - log q at choices (nats): the log likelihood, where q is the prior."""
        if self.initial is None:
            return log_likelihood(self.program, choices)
        target = _density(self.program, choices)
        return jnp.where(jnp.isneginf(target), -jnp.inf, target - _density(self.initial, choices))


def checked_path(program: Program, initial: Program | None) -> TemperingPath:
    """The path, if both programs make the same choices.

    Raises:
        TypeError: `initial` is no program.
        AddressError: an address of one is not one of the other's, or has another shape or dtype.
    """
    ch.refuse_unbounded(program.staged, "tempering path")
    if initial is None:
        return TemperingPath(program)
    if not isinstance(initial, Program):
        raise TypeError(
            f"initial is a {type(initial).__name__}.\nExpected: a Program: call the model with its arguments."
        )
    wanted, found = (
        {a: (i.shape, np.dtype(i.dtype).kind) for a, i in ch.latent_infos(p.staged).items()} for p in (program, initial)
    )
    odd = [a for a in {**wanted, **found} if wanted.get(a) != found.get(a)]
    if odd:
        told = "; ".join(f"{a!r}: {wanted.get(a, 'missing')} and {found.get(a, 'missing')}" for a in odd)
        raise AddressError(
            f"The choices of {program.name!r} and of its start {initial.name!r} differ ({told}).\n"
            "Expected: the same addresses, shapes and dtypes, so that one can become the other.\n"
            "Fix: draw in `initial` what the program draws, under the same addresses, and nothing else."
        )
    return TemperingPath(program, initial)


def _density(program: Program, choices: Choices) -> Any:
    return program.run(Density(), ch.nest(choices, program.staged))[1].total


class _Bridge(Temper):
    """Temper observations and factors; the total is the log density of the choices, which are written."""

    def zero(self) -> Any:
        """Zero nats."""
        return jnp.zeros((), jnp.result_type(float))

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Score a choice that is made."""
        if node.site.kind == "observed":
            return super().sample(node, read, where)._replace(increment=self.zero())
        value = bind_again(node)
        return Outcome(value, total_log_prob(node.measure, value), value if node.observed is None else None)

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """Scale the factor."""
        return super().factor(site, log_weight, where)._replace(increment=self.zero())


def _bridge(program: Program, initial: Program, beta: Any) -> Any:
    """p^beta (q / prior)^(1 - beta), with the choices bound from the prior of p."""
    value, result = program.run(_Bridge(beta))
    start = _density(initial, ch.flatten(result.writes, program.staged, ("latent",)))
    idle = jnp.isneginf(result.total) | (beta == 1)  # the density is zero anyhow, or the start is left behind
    ratio = jnp.where(idle, 0.0, start) - jnp.where(idle, 0.0, result.total)
    factor("tempering start", jnp.where(idle, 0.0, (1.0 - beta) * ratio))
    return value


# --- drawing the start ------------------------------------------------------------------------------------------------


def drawn_state(program: Program) -> Particle:
    """Bind a program's choices in the model being traced: the state that they make up, and its log weight (nats)."""
    _, result = program.run(WeighAndWrite())
    staged = program.staged
    state = State(ch.flatten(result.writes, staged, ("latent",)), ch.spread(result.masks, staged))
    return Particle(state, result.total)


# --- vectors ----------------------------------------------------------------------------------------------------------


class _Split(NamedTuple):
    prior: Any
    likelihood: Any


class _SplitDensity(FlatDensity):
    """The density in R^n, that of the choices apart from the likelihood."""

    def zero(self) -> Any:
        """Zero nats each."""
        return _Split(super().zero(), super().zero())

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Score an observation or a choice."""
        out = super().sample(node, read, where)
        observed = node.site.kind == "observed"
        zero = jnp.zeros_like(out.increment)
        return out._replace(increment=_Split(zero, out.increment) if observed else _Split(out.increment, zero))

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """A factor is likelihood."""
        out = super().factor(site, log_weight, where)
        return out._replace(increment=_Split(jnp.zeros_like(out.increment), out.increment))


def vector_target(path: TemperingPath) -> Flat | Summed:
    """The program's continuous choices as a vector, its finite ones summed out where the path starts at the prior.

    Raises:
        MeasureError: the choices are no vector.
    """
    infos = ch.latent_infos(path.program.staged)
    discrete = [a for a, i in infos.items() if not jnp.issubdtype(i.dtype, jnp.floating)]
    if discrete and path.initial is not None:
        raise MeasureError(
            f"The choices {discrete} of {path.program.name!r} are discrete, and the path starts at "
            f"{path.initial.name!r}: a sum over them has no geometric path.\n"
            "Expected: continuous choices, for the kernels 'random_walk' and 'hmc'.\n"
            "Fix: another kernel, such as ppl.TemperedSMC(kernel=ppl.inference.trace_mh_kernel), or start at the prior."
        )
    return Summed(path.program) if discrete else Flat(path.program)


def vector_densities(path: TemperingPath, vector: Float[Array, "dim"]) -> Densities:
    """Log q and log p - log q at a vector in the program's coordinates (nats), with one Jacobian in both."""
    target = vector_target(path)
    if isinstance(target, Summed) or path.initial is not None:
        start = type(target)(path.at(0.0)).log_density(vector)
        whole = target.log_density(vector)
        return Densities(start, jnp.where(jnp.isneginf(whole), -jnp.inf, whole - start))
    total = path.program.run(_SplitDensity(), ch.nest(target.free(vector), path.program.staged))[1].total
    return Densities(total.prior, total.likelihood)
