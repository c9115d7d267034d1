"""Looks at the data before inference: NaN, values outside the support, log densities that are no numbers.

Static facts (shapes, dtypes) raise while a model is traced; these are facts about numbers, so they are checked at the
door by running the program on a few prior draws. Masked entries (`distribution.mask`) may hold anything. Law: a
program whose every observation is possible under some prior draw passes. It does not look at latent choices' values.
"""

from functools import singledispatch
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax
from jax.core import Tracer
from numpyro.distributions import constraints

from ppl.distributions.density import in_support
from ppl.distributions.scaled import Scaled
from ppl.errors import DegenerateWeightsError, NaNError, SupportError
from ppl.inference.population import Given, Propose, in_lanes, over_lanes, population
from ppl.semantics import choices as ch
from ppl.semantics.binding import NAN_ADVICE
from ppl.semantics.jaxpr import Lane
from ppl.semantics.program import Program
from ppl.semantics.protocol import Outcome, Position, SampleSite
from ppl.typing import PRNGKey

SIMPLEX_TOLERANCE = 1e-3
"""How far the sum of probabilities among the data may be from one."""
DRAWS = 16
"""The number of prior draws that the checks look at."""


@singledispatch
def presence(measure: Any) -> Any:
    """Which entries count, as an array that broadcasts to a value's shape; True where no mask is set."""
    del measure
    return True


@presence.register
def _masked(measure: dist.MaskedDistribution) -> Any:
    mask = jnp.asarray(measure._mask)
    return mask.reshape(*mask.shape, *(1,) * measure.base_dist.event_dim) & presence(measure.base_dist)


@presence.register(Scaled)
@presence.register(dist.ExpandedDistribution)
@presence.register(dist.Independent)
def _wrapped(measure: Any) -> Any:
    return presence(measure.base_dist)


def _within(measure: Any, value: Any) -> Any | None:
    """Whether data lie in the support, also where densities leave the check to the distribution (simplex, Cholesky)."""
    support = getattr(measure, "support", None)
    if support is None:
        return None
    if isinstance(support, type(constraints.simplex)):
        return jnp.all(value >= 0, axis=-1) & (jnp.abs(jnp.sum(value, axis=-1) - 1.0) < SIMPLEX_TOLERANCE)
    checked = in_support(measure, value)
    return support(value) if checked is None else checked


class Inspected(NamedTuple):
    """What is seen of one observation: the value, and entry by entry whether it is NaN or outside the support."""

    value: Any
    nan: Any
    outside: Any


class Inspect(Propose):
    """Run as a proposal does, and write at each observed site what is wrong with its value."""

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Look at an observation; draw a choice."""
        outcome = super().sample(node, read, where)
        if node.observed is None:
            return outcome
        return outcome._replace(write=_inspected(node))


def _inspected(node: SampleSite) -> Inspected:
    value = node.observed
    if not isinstance(value, jax.Array | np.ndarray | np.generic):
        return Inspected((), jnp.zeros((), bool), jnp.zeros((), bool))
    value = jnp.asarray(value)
    present = jnp.broadcast_to(presence(node.measure), value.shape)
    inside = _within(node.measure, value)
    outside = jnp.zeros((), bool) if inside is None else ~inside & _batch_of(present, jnp.ndim(inside))
    return Inspected(value, jnp.isnan(value) & present, outside)


def _batch_of(present: Any, rank: int) -> Any:
    return jnp.all(present, axis=tuple(range(rank, present.ndim)))


class Report(NamedTuple):
    """Over all draws: what was seen of each observation (`outside`: in all draws), and the joint log densities."""

    sites: dict[str, Inspected]
    log_density: Any


@jax.jit
def _report(program: Program, key: PRNGKey) -> Report:
    def one(step: Any) -> Report:
        def lane() -> Any:
            return in_lanes(program, Inspect(jax.random.fold_in(key, step)), {})[1]

        result = jax.tree.map(lambda x: x[0], over_lanes(lane, 1))
        return Report(
            {a: w for a, w in result.writes.items() if isinstance(w, Inspected)},
            result.total.log_proposal + result.total.log_weight,
        )

    def step(so_far: dict[str, Inspected], index: Any) -> Any:
        report = one(index)
        return {a: _joined(seen, report.sites[a]) for a, seen in so_far.items()}, report.log_density

    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, jnp.int32(0)).sites)
    init = {a: seen._replace(outside=~seen.outside) for a, seen in blank.items()}
    return Report(*lax.scan(step, init, jnp.arange(DRAWS, dtype=jnp.int32)))


def _joined(before: Inspected, now: Inspected) -> Inspected:
    known = jnp.any(before.nan)
    value = jax.tree.map(lambda a, b: jnp.where(known, a, b), before.value, now.value)
    return Inspected(value, jnp.where(known, before.nan, now.nan), now.outside & before.outside)


def check_data(program: Program, key: PRNGKey) -> None:
    """Raise where the program's observations cannot be meant as they are.

    Args:
        program: The program with its data bound.
        key: A key for the prior draws.

    Raises:
        NaNError: a present entry of an observation is NaN.
        SupportError: an observation lies outside its support in every one of 16 prior draws.
        DegenerateWeightsError: no draw has a finite log density, and some have NaN or plus infinity.
    """
    ch.refuse_unbounded(program.staged, "posterior")
    report = jax.tree.map(np.asarray, _report(program, key))
    check_observations(program, report.sites, key)
    finite = np.isfinite(report.log_density)
    wrong = np.isnan(report.log_density) | np.isposinf(report.log_density)
    if wrong.any() and not finite.any():
        _not_a_number(program, jax.random.fold_in(key, int(np.argmax(wrong))), int(wrong.sum()))


def inspected_at(program: Program, choices: dict[str, Any]) -> dict[str, Inspected]:
    """What is seen of the observations at some given choices (leading axis: `DRAWS` of them); nothing is drawn."""

    def one(given: dict[str, Any]) -> dict[str, Inspected]:
        nested = ch.nest(given, program.staged)
        reads = {address: Given(value, None) for address, value in nested.items()}
        result = in_lanes(program, Inspect(jax.random.key(0)), reads)[1]
        return {a: w for a, w in result.writes.items() if isinstance(w, Inspected)}

    seen = jax.vmap(one, axis_size=DRAWS, axis_name=Lane(0))(choices)
    return {a: _summary(x) for a, x in seen.items()}


def _summary(seen: Inspected) -> Inspected:
    """One value (the one with NaN, if any), the NaN of any draw, and what is outside in every draw."""
    worst = jnp.argmax(jnp.any(seen.nan.reshape(DRAWS, -1), axis=1))
    return Inspected(
        jax.tree.map(lambda x: x[worst], seen.value), jnp.any(seen.nan, axis=0), jnp.all(seen.outside, axis=0)
    )


def check_observations(program: Program, sites: dict[str, Inspected], key: PRNGKey) -> None:
    """Raise where an observation holds NaN, or lies outside its support in every draw looked at."""
    staged = program.staged
    for address, seen in sites.items():
        source = staged.table[address].site.source
        _check_nan(address, source, seen)
        if not any(info.masked for info in staged.table[address].infos):
            _check_support(program, address, seen, key)


def _check_nan(address: str, source: Any, seen: Inspected) -> None:
    if not seen.nan.any():
        return
    first = tuple(int(i) for i in np.argwhere(seen.nan)[0])
    raise NaNError(
        f"The observation of {address!r} ({source}) holds {int(seen.nan.sum())} NaN of {seen.nan.size} values, the "
        f"first at index {first}.\n"
        f"{NAN_ADVICE}"
    )


def _check_support(program: Program, address: str, seen: Inspected, key: PRNGKey) -> None:
    if not seen.outside.any():
        return
    entry, describe = program.staged.table[address], Describe(key)
    program.run(describe)
    name, source, expected = entry.signature.name, entry.site.source, describe.supports[address]
    first = tuple(int(i) for i in np.argwhere(seen.outside)[0])
    raise SupportError(
        f"The observation of {address!r} ({source}) has {int(seen.outside.sum())} values outside the "
        f"support of {name}, the "
        f"first {np.asarray(seen.value)[first]!s} at index {first}, in every one of {DRAWS} prior draws.\n"
        f"Expected: {expected}.\n"
        "Fix: check the data's coding and units, or choose a distribution whose support holds them. Where the support "
        "depends on unlikely values of latent choices and the data are right: ppl.infer(..., check_data=False)."
    )


class Describe(Propose):
    """Run as a proposal does, and note the support of each observed site in words."""

    def __init__(self, key: Any) -> None:
        super().__init__(key)
        self.supports: dict[str, str] = {}

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Note the support of an observation; draw a choice."""
        if node.observed is not None:
            self.supports[node.address] = _in_words(node.measure.support)
        return super().sample(node, read, where)


def _in_words(support: Any) -> str:
    base = getattr(support, "base_constraint", support)  # an independent constraint is that of its elements
    name = type(base).__name__.strip("_")
    words = name.replace("_", " ").lower()
    bounds = {k: v for k, v in vars(base).items() if not isinstance(v, Tracer)}
    known = [f"{k.replace('_', ' ')} {np.asarray(v).tolist()}" for k, v in bounds.items() if np.ndim(v) == 0]
    return ", ".join([words, *known])


def _not_a_number(program: Program, key: PRNGKey, count: int) -> None:
    choices = jax.tree.map(lambda x: x[0], population(program, key, 1).choices)
    raise DegenerateWeightsError(
        f"None of {DRAWS} prior draws of {program.name!r} has a finite log density; {count} have NaN or plus "
        "infinity.\n"
        "Log density by site, at the first of these:\n"
        f"{density_table(program, choices)}\n"
        "Likely causes: a parameter that overflows or leaves its range, a density that is infinite at the data."
    )


def density_table(program: Program, choices: dict[str, Any]) -> str:
    """Log density by site at given choices (nats), one line each; sites that are not finite are marked."""
    terms = program.terms(choices)
    rows = [(a, kind, _total(x)) for kind in ("prior", "likelihood", "factor") for a, x in getattr(terms, kind).items()]
    width = max((len(a) for a, _, _ in rows), default=0)
    lines = []
    for address, kind, total in rows:
        mark = "" if np.isfinite(total) else f"   <- {program.staged.table[address].site.source}"
        lines.append(f"  {address:<{width}}  {kind:<10}  {total:12.5g}{mark}")
    return "\n".join(lines)


def _total(log_densities: Any) -> float:
    with np.errstate(invalid="ignore"):
        return float(np.sum(np.asarray(log_densities)))
