"""The law of a program's parameters by themselves, and random-walk proposals for them.

`prior(program, names)` runs only what the parameters need. A proposal moves the continuous ones in R^n; the discrete
ones are redrawn from their law given the parameters before them, which cancels from the acceptance ratio. Law: with
`log_density` the terms of `Point`, the step from `old` to `new` is in balance with the prior when it is accepted with
probability min(1, exp(new.log_density - old.log_density)).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree

from ppl.distributions.drawn import law_of_draws
from ppl.errors import MeasureError
from ppl.semantics import choices as ch
from ppl.semantics import jaxpr as jp
from ppl.semantics.interpreter import run_equations
from ppl.semantics.language import sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Handler, Outcome, Position, SampleSite
from ppl.semantics.representations import WeighAndWrite
from ppl.semantics.rewrites import Rewrite, bind_again
from ppl.semantics.scoring import log_ratio
from ppl.semantics.table import addresses_in
from ppl.semantics.unconstrained import pulled_back


class Point(NamedTuple):
    """Values of the parameters by address.

    `free` holds those in R^n (by site), `log_density` is theirs there, with the Jacobian (nats); that of discrete
    parameters is left out.
    """

    values: Choices
    free: Choices
    log_density: Any


def drawn_parameters(program: Program, names: tuple[str, ...]) -> tuple[Choices, Any]:
    """Draw the parameters inside a model; and the log weight (nats) that their law has beyond that of the draws."""
    result = _run(program, names, WeighAndWrite(), {})
    return ch.flatten(result.writes, program.staged, ("latent",)), result.total


def located(program: Program, values: Choices) -> Point:
    """The point of given values."""
    result = _run(program, tuple(values), Located(), ch.nest(values, program.staged))
    free = {address: x for address, x in result.writes.items() if x is not None}
    return Point(values, free, result.total)


def proposed(program: Program, old: Point, spread: Any) -> Point:
    """Propose a point, inside a model: Normal steps `spread @ noise` in R^n, discrete parameters anew."""
    vector, unravel = ravel_pytree(old.free)
    if vector.size:
        noise = sample("noise", dist.Normal(jnp.zeros_like(vector), 1.0).to_event(1))
        vector = vector + jnp.asarray(spread, vector.dtype) @ noise
    free = unravel(vector)
    result = _run(program, tuple(old.values), Proposed(), free)
    return Point(ch.flatten(result.writes, program.staged, ("latent",)), free, result.total)


def spread_of(program: Program, values: Choices, weights: Any) -> Any:
    r"""The Cholesky factor of $2.38^2/d$ times the weighted covariance of points in R^n (leading axis).

    Roberts, Gelman, Gilks (1997): the scale that suits a Normal target.
    """
    vectors = jax.vmap(lambda one: ravel_pytree(located(program, one).free)[0])(values)
    dim = vectors.shape[1]
    if not dim:
        return jnp.zeros((0, 0))
    centred = vectors - (weights @ vectors)[None]
    covariance = (weights[:, None] * centred).T @ centred
    ridge = 1e-6 * jnp.diag(jnp.diag(covariance)) + 1e-12 * jnp.eye(dim)
    return 2.38 / jnp.sqrt(float(dim)) * jnp.linalg.cholesky(covariance + ridge)


# --- handlers ---------------------------------------------------------------------------------------------------------


def _zero() -> Any:
    return jnp.zeros((), jnp.result_type(float))


def _excess(node: SampleSite, value: Any) -> Any:
    law = law_of_draws(node.measure)
    return _zero() if law is node.measure else log_ratio(node.measure, law, value)


class Located(Handler):
    """Score given values in R^n; writes them there (None: a discrete one)."""

    def zero(self) -> Any:
        """Zero nats."""
        return _zero()

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Pull the value back."""
        del where
        pullback = pulled_back(node)
        if pullback is None:
            return Outcome(read, _excess(node, read))
        free = pullback.transform.inv(read)
        return Outcome(read, jnp.sum(pullback.log_prob(free)).astype(jnp.result_type(float)), free)


class Proposed(Rewrite):
    """Push given points of R^n to their supports and score them; draw discrete choices. Writes the values."""

    def zero(self) -> Any:
        """Zero nats."""
        return _zero()

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """The pushed value, or a draw."""
        del where
        pullback = pulled_back(node)
        if pullback is None:
            value = bind_again(node._replace(measure=law_of_draws(node.measure)))
            return Outcome(value, _excess(node, value), value)
        value = pullback.transform(read)
        return Outcome(value, jnp.sum(pullback.log_prob(read)).astype(jnp.result_type(float)), value)


# --- the part of the program that the parameters need -----------------------------------------------------------------


def _run(program: Program, names: tuple[str, ...], handler: Handler, reads: Choices) -> Any:
    staged = program.staged
    jaxpr, sites = staged.code.jaxpr, ch.nest(dict.fromkeys(names, 0), staged).keys()
    values = zip(
        (*jaxpr.constvars, *jaxpr.invars), (*staged.code.consts, *map(jnp.asarray, program.dynamic)), strict=True
    )
    return run_equations(_needed(program, frozenset(sites)), dict(values), handler, reads)


def _needed(program: Program, sites: frozenset[str]) -> list[Any]:
    """The equations that hold the parameters, and those that they read."""
    needed: set[Any] = set()
    kept = []
    for equation in reversed(program.jaxpr.eqns):
        held = _held(equation)
        if held & sites or needed.intersection(equation.outvars):
            _refuse_others(program, held - sites, sites)
            needed.update(atom for atom in equation.invars if not jp.is_literal(atom))
            kept.append(equation)
    return kept[::-1]


def _held(equation: Any) -> frozenset[str]:
    own = {equation.params["site"].address} if equation.primitive in jp.SITES else set()
    return frozenset(own).union(*(addresses_in(code.jaxpr) for code in jp.inner_codes(equation)))


def _refuse_others(program: Program, others: frozenset[str], sites: frozenset[str]) -> None:
    table = program.staged.table
    others = frozenset(address for address in others if table[address].site.kind != "deterministic")
    if others:
        lines = ", ".join(f"{address!r} ({table[address].site.source})" for address in sorted(others))
        raise MeasureError(
            f"The parameters {sorted(sites)} of {program.name!r} cannot be drawn by themselves: they depend on, or "
            f"share control flow with, {lines}.\nExpected: parameters that depend on parameters alone.\n"
            "Fix: name others (parameters=...), or draw the parameters first, in straight-line code."
        )
