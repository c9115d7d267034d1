"""Runs of programs at given or fresh choices, as involutive moves need them: values, what is made, densities.

Law: `replayed(p, x)` has the log density of `p` at x, and zeros where x is not made; `drawn(q)` draws from q at sites
under `aux/` of the program being traced, and has the log density of what it drew.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from ppl.distributions.drawn import law_of_draws
from ppl.distributions.finite import Finite
from ppl.errors import MeasureError, PplError
from ppl.inference.kernels import State
from ppl.semantics import choices as ch
from ppl.semantics.binding import bind_sample
from ppl.semantics.handlers import Density
from ppl.semantics.measures import join
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Handler, Outcome, Position, SampleSite
from ppl.semantics.rewrites import placed
from ppl.semantics.scoring import total_log_prob
from ppl.semantics.site import WEIGHING, Source
from ppl.semantics.unconstrained import Pullback

DISCRETE, CONTINUOUS, THIN = 0, 1, 2
"""Kinds of choices; a thin one is continuous on a support of lower dimension than its array (a simplex)."""


class Run(NamedTuple):
    """A run of a program.

    Attributes:
        state: Its choices and masks.
        log_density: The joint log density (nats).
        made: For each address, elementwise, whether the choice is made.
        kinds: For each address an array whose last axis has the size `DISCRETE`, `CONTINUOUS` or `THIN`.
    """

    state: State
    log_density: Any
    made: dict[str, Any]
    kinds: dict[str, Any]


class Played(NamedTuple):
    """What is written at a site: its value, and the kind of each of its arrays."""

    value: Any
    kinds: Any


class Replay(Density):
    """The joint log density at given choices, or (`laws`) that of the laws of draws. Writes what was `Played`."""

    def __init__(self, *, laws: bool) -> None:
        self.laws = laws

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Score the given or observed value."""
        del where
        if node.observed is not None:
            return Outcome(node.observed, total_log_prob(node.measure, node.observed))
        measure = law_of_draws(node.measure) if self.laws else node.measure
        return Outcome(read, total_log_prob(measure, read), Played(read, _kinds(node)))


class Draw(Handler):
    """Draw every choice at a site of its own under `aux/`; the total is the log density of the draws."""

    emits = True

    def zero(self) -> Any:
        """Zero nats."""
        return jnp.zeros((), jnp.result_type(float))

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Bind the law of draws."""
        del read, where
        law = law_of_draws(node.measure)
        site = placed(node.site._replace(address=join("aux", node.address), plates=(), grad=None))
        value = bind_sample(site, law)
        return Outcome(value, total_log_prob(law, value), Played(value, _kinds(node)))


def _kinds(node: SampleSite) -> Any:
    """For each array of a site's value, zeros of the size that names its kind."""
    avals = jax.tree.unflatten(node.signature.value_tree, node.signature.avals)
    return jax.tree.map(lambda aval: jnp.zeros(_kind(node.measure, aval)), avals)


def _kind(measure: Any, aval: Any) -> int:
    if isinstance(measure, Finite | dist.Delta) or not jnp.issubdtype(aval.dtype, jnp.floating):
        return DISCRETE
    support = getattr(measure, "support", None)
    if getattr(support, "is_discrete", False):
        return DISCRETE
    if support is None:
        return CONTINUOUS
    try:
        return CONTINUOUS if Pullback(measure).shape() == measure.shape() else THIN
    except NotImplementedError:
        return THIN


def replayed(program: Program, choices: Choices, *, laws: bool = False) -> Run:
    """Run a program at given choices.

    Args:
        program: The program.
        choices: A value for every latent address; what a run does not make may be anything.
        laws: Whether to score by the laws of draws in place of the measures.
    """
    _, result = program.run(Replay(laws=laws), ch.nest(choices, program.staged))
    return _as_run(program, result)


def drawn(program: Program) -> Run:
    """Draw the choices of an auxiliary program, inside the kernel that is being traced.

    Raises:
        MeasureError: the program has observations or factors.
    """
    ch.refuse_unbounded(program.staged, "density of an auxiliary program")
    weighing = [f"{i.address!r} ({i.source}, {i.kind})" for i in program.sites.values() if i.kind in WEIGHING]
    if weighing:
        raise MeasureError(
            f"The auxiliary program {program.name!r} has sites that weigh: {', '.join(weighing)}.\n"
            "Expected: draws alone, so that its density is normalised.\n"
            "Fix: leave them out, or sample from program.normalize() inside the auxiliary program."
        )
    _, result = program.run(Draw(), {})
    return _as_run(program, result)


def _as_run(program: Program, result: Any) -> Run:
    staged = program.staged
    played = {a: w for a, w in result.writes.items() if isinstance(w, Played)}
    values = ch.flatten({a: w.value for a, w in played.items()}, staged, ("latent",))
    masks = ch.spread(result.masks, staged)
    kinds = ch.flatten({a: w.kinds for a, w in played.items()}, staged, ("latent",))
    made = {a: _elementwise(masks.get(a), x) for a, x in values.items()}
    return Run(State(values, masks), result.total, made, kinds)


def _elementwise(mask: Any, value: Any) -> Any:
    """A mask (of the leading axes; None: always made) over all axes of a value."""
    if mask is None:
        return jnp.ones(jnp.shape(value), bool)
    return jnp.broadcast_to(mask.reshape(*mask.shape, *(1,) * (value.ndim - mask.ndim)), value.shape)


def fitted(
    result: Any, programs: tuple[Program, Program], involution: Callable[..., Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an involution returned, in the shapes and dtypes of the two programs' choices.

    Raises:
        AddressError, ShapeError, DtypeError: with the involution's line.
        TypeError: it returned something other than two dicts.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"The involution {described(involution)} returned a {type(result).__name__}.\n"
            "Expected: a tuple of two dicts by address, (new_choices, new_aux_choices)."
        )
    parts = []
    for choices, program in zip(result, programs, strict=True):
        try:
            nested = ch.checked(choices, program.staged, "move to", complete=True)
        except PplError as error:
            raise type(error)(
                f"The involution {described(involution)} returned choices that do not fit the program "
                f"{program.name!r}.\n{error}"
            ) from error
        parts.append(ch.flatten(nested, program.staged, ("latent",)))
    return parts[0], parts[1]


def described(function: Any) -> str:
    """A function's name, with its line where it has one."""
    code = getattr(function, "__code__", None)
    name = getattr(function, "__name__", type(function).__name__)
    return f"{name!r}" if code is None else f"{name!r} ({Source(code.co_filename, code.co_firstlineno)})"
