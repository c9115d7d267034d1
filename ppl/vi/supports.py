"""Supports that must nest: the guide's inside the model's for an ELBO, the model's inside the guide's for forward KL.

Where they do not, the objective is minus infinity (ELBO), or leaves out a part of the posterior without a word (wake,
forward KL, importance weights). What is compared is what the distributions say of their supports, with bounds that are
known before the program runs; what is not known raises no alarm.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from numpyro.distributions import constraints

from ppl.distributions.drawn import law_of_draws
from ppl.distributions.subset import RandomSubset
from ppl.errors import StrategyError
from ppl.semantics import jaxpr as jp
from ppl.semantics.program import Program
from ppl.semantics.site import Site

Direction = Literal["guide in model", "model in guide"]

_INTEGERS = (type(constraints.boolean), constraints.integer_interval, constraints.integer_greater_than)
_LINE = (type(constraints.real), constraints.greater_than, constraints.less_than, constraints.interval)
_THIN = (type(constraints.simplex), type(constraints.sphere))


class Region(NamedTuple):
    """What is known of a support: its name, what kind of set, and bounds (None: not known before the program runs)."""

    name: str
    kind: Literal["line", "integers", "thin", "other"]
    low: Any
    high: Any


class Support(NamedTuple):
    """A latent choice and its support, None where nothing is known; `subset` marks random subsets of plates."""

    site: Site
    region: Region | None
    subset: bool


def refuse_unnested(guide: Program, model: Program, direction: Direction = "guide in model") -> None:
    """Raise where the supports of a guide and a model do not nest as an objective needs it.

    Args:
        guide: The guide at some parameters.
        model: The model.
        direction: Which of the two supports must lie inside the other: the guide's in the model's for the ELBO family,
            the model's in the guide's for forward KL, wake and whatever weighs the guide's draws.

    Raises:
        StrategyError: naming each address with both lines; also for addresses that only one of the two has.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def model():
        ...     ppl.sample("scale", dist.HalfNormal(1.0))
        >>> @ppl.model
        ... def guide():
        ...     ppl.sample("scale", dist.Normal(1.0, 0.1))
        >>> refuse_unnested(guide(), model(), "model in guide")
        >>> try:
        ...     refuse_unnested(guide(), model())
        ... except ppl.errors.StrategyError as error:
        ...     print(str(error).splitlines()[0])
        The supports of the guide 'guide' and the model 'model' do not nest:
    """
    ours, theirs = supports(CodeOf(guide.staged.code)), supports(CodeOf(model.staged.code))
    lines = [*_lonely(ours, theirs, guide, model), *_unnested(ours, theirs, direction)]
    if not lines:
        return
    inner, outer = ("guide", "model") if direction == "guide in model" else ("model", "guide")
    why = (
        "outside it the model's density is zero, and the objective infinite"
        if inner == "guide"
        else "the guide never draws from the rest of the model's support"
    )
    raise StrategyError(
        f"The supports of the guide {guide.name!r} and the model {model.name!r} do not nest:\n"
        + "\n".join(lines)
        + f"\nExpected: the same addresses, each with the {inner}'s support inside the {outer}'s; {why}.\n"
        "Fix: a guide distribution on the model's support, for example a TransformedDistribution by "
        "biject_to(support), dist.LogNormal for positive choices, dist.Beta for the unit interval."
    )


def _lonely(
    ours: Mapping[str, Support], theirs: Mapping[str, Support], guide: Program, model: Program
) -> Iterator[str]:
    for address, support in theirs.items():
        if address not in ours and not support.subset:
            yield f"- {address!r} is a choice of the model ({support.site.source}), not of the guide {guide.name!r}"
    for address, support in ours.items():
        if address not in theirs:
            yield f"- {address!r} is a choice of the guide ({support.site.source}), not of the model {model.name!r}"


def _unnested(ours: Mapping[str, Support], theirs: Mapping[str, Support], direction: Direction) -> Iterator[str]:
    for address, support in ours.items():
        if address not in theirs:
            continue
        mine, other = support.region, theirs[address].region
        inner, outer = (mine, other) if direction == "guide in model" else (other, mine)
        if mine is not None and other is not None and not is_inside(inner, outer):
            here, there = support.site.source, theirs[address].site.source
            yield f"- {address!r}: {mine.name} in the guide ({here}), {other.name} in the model ({there})"


def is_inside(inner: Region | None, outer: Region | None) -> bool:
    """Whether a support lies inside another; True where that is not known."""
    if inner is None or outer is None:
        return True
    kinds = (inner.kind, outer.kind)
    if kinds in (("line", "line"), ("integers", "integers")):
        return _above(inner.low, outer.low) and _above(outer.high, inner.high)
    if "integers" in kinds:
        return kinds[0] == kinds[1] or "other" in kinds
    if kinds == ("line", "other"):
        return bool(np.all(np.isfinite(np.asarray(inner.low, float)))) if inner.low is not None else True
    return "thin" not in kinds or inner.name == outer.name or "other" in kinds


def _above(high: Any, low: Any) -> bool:
    """Whether one bound is nowhere below the other, as far as known."""
    return high is None or low is None or bool(np.all(np.asarray(high) >= np.asarray(low)))


# --- reading supports off a program ----------------------------------------------------------------------------------


class CodeOf:
    """A code as a key of a cache: equal where the jaxpr is the same object."""

    def __init__(self, code: jp.Code) -> None:
        self.code = code

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CodeOf) and other.code.jaxpr is self.code.jaxpr

    def __hash__(self) -> int:
        return id(self.code.jaxpr)


@lru_cache(maxsize=1024)
def supports(key: CodeOf) -> dict[str, Support]:
    """The support of each latent choice of a code, by address."""
    return {support.site.address: support for support in _supports(key.code)}


def _supports(code: jp.Code) -> Iterator[Support]:
    # The constants of lanes are their first operands, not part of the code.
    known = {var: const for var, const in zip(code.jaxpr.constvars, code.consts, strict=False) if _concrete(const)}
    for equation in code.jaxpr.eqns:
        if equation.primitive is jp.sample_p:
            if equation.params["site"].kind == "latent":
                yield _support(equation, known)
        elif jp.has_sites(equation):
            for inner in jp.inner_codes(equation):
                yield from _supports(inner)


def _support(equation: Any, known: Mapping[Any, Any]) -> Support:
    """The support of one choice; bounds that are written into the jaxpr are known."""
    signature, found = equation.params["signature"], []
    atoms = equation.invars[: signature.num_leaves]
    given = [atom.val if jp.is_literal(atom) else known.get(atom) for atom in atoms]

    def look(*leaves: Any) -> None:
        values = [leaf if value is None else value for leaf, value in zip(leaves, given, strict=True)]
        law = law_of_draws(jax.tree.unflatten(signature.measure_tree, values))
        constraint = getattr(law, "support", None)
        found.append(Support(equation.params["site"], region(constraint), isinstance(law, RandomSubset)))

    jax.eval_shape(look, *(jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in atoms))
    return found[0]


def region(constraint: Any) -> Region | None:
    """What a NumPyro constraint says; None for what is no constraint.

    Examples:
        >>> region(constraints.unit_interval)
        Region(name='the interval from 0 to 1', kind='line', low=0.0, high=1.0)
    """
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    if not isinstance(constraint, constraints.Constraint):
        return None
    integer, line = isinstance(constraint, _INTEGERS), isinstance(constraint, _LINE)
    circular = isinstance(constraint, type(constraints.circular))
    if not (integer or line) or circular:
        name = type(constraint).__name__.strip("_")
        return Region(f"the constraint {name}", "thin" if isinstance(constraint, _THIN) else "other", None, None)
    ends = (0, 1) if isinstance(constraint, type(constraints.boolean)) else (-np.inf, np.inf)
    low = _bound(getattr(constraint, "lower_bound", ends[0]))
    high = _bound(getattr(constraint, "upper_bound", ends[1]))
    return Region(_name(low, high, integer=integer), "integers" if integer else "line", low, high)


def _bound(value: Any) -> Any:
    return value if _concrete(value) else None


def _concrete(value: Any) -> bool:
    return not isinstance(value, Tracer | jax.ShapeDtypeStruct)


def _name(low: Any, high: Any, *, integer: bool) -> str:
    ends = ["?" if end is None else f"{np.min(end):g}" if np.size(end) == 1 else "..." for end in (low, high)]
    if not integer and ends == ["-inf", "inf"]:
        return "the real line"
    return f"the {'integers' if integer else 'interval'} from {ends[0]} to {ends[1]}"
