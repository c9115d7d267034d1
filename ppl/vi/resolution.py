"""Which strategy each choice of an objective has: the one at its site, else the default for its measure.

The default differentiates through the draw where the sampler can be, enumerates where the support is small, and else
takes the score function. Choices without parameters are noise.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppl.distributions.drawn import law_of_draws
from ppl.distributions.finite import outcomes
from ppl.errors import StrategyError
from ppl.semantics import jaxpr as jp
from ppl.vi.enumeration import Enumerate
from ppl.vi.expectation import Expectation, Nested
from ppl.vi.joint import joint_size
from ppl.vi.pathwise import Noise, Reparam
from ppl.vi.score import Score
from ppl.vi.strategy import Strategy

SMALL = 16
"""The most joint values of a choice that is enumerated by default."""


class Facts(NamedTuple):
    """What is known of a choice's measure before the program runs.

    Attributes:
        kind: The class of the law that draws follow.
        floating: Whether its values are floats.
        differentiable: Whether its sampler can be differentiated in all parameters.
        values: The number of joint values, where the support is finite.
        parameters: Whether it has float parameters at all.
        nested: Whether it is a nested expectation.
    """

    kind: type
    floating: bool
    differentiable: bool
    values: int | None
    parameters: bool
    nested: bool


class Choice(NamedTuple):
    """One `sample` equation, and whether it lies inside a loop, branch or lanes."""

    equation: Any
    inside: bool


def choices_in(jaxpr: Any, *, inside: bool = False) -> Iterator[Choice]:
    """The `sample` equations of a jaxpr, in program order."""
    for equation in jaxpr.eqns:
        if equation.primitive is jp.sample_p:
            yield Choice(equation, inside)
        elif jp.has_sites(equation):
            deeper = inside or equation.primitive.name in ("scan", "while", "lanes")
            for code in jp.inner_codes(equation):
                yield from choices_in(code.jaxpr, inside=deeper)


def measure_avals(equation: Any) -> list[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the leaves of a `sample` equation's measure."""
    atoms = equation.invars[: equation.params["signature"].num_leaves]
    return [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in atoms]


def looked_at(equation: Any, look: Callable[[Any], Any]) -> Any:
    """What `look` says of a `sample` equation's measure before the program runs; it sees leaves without values."""
    tree, found = equation.params["signature"].measure_tree, []
    jax.eval_shape(lambda *leaves: found.append(look(jax.tree.unflatten(tree, leaves))), *measure_avals(equation))
    return found[0]


def facts(equation: Any) -> Facts:
    """Look at the measure of a `sample` equation."""
    signature = equation.params["signature"]

    def look(measure: Any) -> tuple[Any, int | None]:
        law = law_of_draws(measure)
        listed = None if isinstance(measure, Expectation) else outcomes(law)
        return law, None if listed is None else joint_size(listed)

    law, size = looked_at(equation, look)
    return Facts(
        kind=type(law),
        floating=all(jnp.issubdtype(aval.dtype, jnp.floating) for aval in signature.avals),
        differentiable=bool(getattr(law, "has_rsample", False)),
        values=size,
        parameters=any(jnp.issubdtype(aval.dtype, jnp.floating) for aval in measure_avals(equation)),
        nested=isinstance(law, Expectation),
    )


class Ruled(NamedTuple):
    """A default strategy, and why it is the default."""

    strategy: Strategy
    why: str


def by_rule(choice: Choice) -> Ruled:
    """The strategy of a choice whose site names none, and the reason."""
    known = facts(choice.equation)
    if known.nested:
        return Ruled(Nested(), "an expectation of its own")
    if not known.parameters:
        return Ruled(Noise(), "the distribution has no parameters")
    if known.floating and known.differentiable:
        return Ruled(Reparam(), "the sampler is differentiable")
    if known.values is None:
        what = "the sampler is not differentiable" if known.floating else "no finite list of values"
        return Ruled(Score(), what)
    if known.values > SMALL:
        return Ruled(Score(), f"{known.values} values: too many to enumerate unasked (at most {SMALL})")
    if choice.inside:
        return Ruled(Score(), f"{known.values} values, but in a loop or lanes, which enumerating would open")
    return Ruled(Enumerate(), f"{known.values} values")


def default(choice: Choice) -> Strategy:
    """The strategy of a choice whose site names none."""
    return by_rule(choice).strategy


@lru_cache(maxsize=1024)
def resolved(jaxpr: Any) -> dict[str, Strategy]:
    """The strategy of each choice of an objective, by address.

    Raises:
        StrategyError: an observation in an objective, something that is no strategy at a site, or `vi.reparam()` for a
            law whose draws have no derivative.
    """
    strategies: dict[str, Strategy] = {}
    for choice in choices_in(jaxpr):
        site = choice.equation.params["site"]
        if site.kind == "observed":
            raise StrategyError(
                f"The objective observes {site.address!r} ({site.source}).\n"
                "Expected: choices only; an objective returns its cost.\n"
                "Fix: put the observation into a program, and add vi.log_density(program, choices) to the cost."
            )
        if site.grad is not None and not isinstance(site.grad, Strategy):
            raise StrategyError(
                f"The site {site.address!r} ({site.source}) was given grad={site.grad!r}.\n"
                "Expected: a gradient strategy, for example vi.reparam(), vi.score(), vi.enumerate()."
            )
        if isinstance(site.grad, Reparam):
            _refuse_rough(choice)
        strategies[site.address] = site.grad if site.grad is not None else default(choice)
    return strategies


def _refuse_rough(choice: Choice) -> None:
    """Raise where a choice is to be differentiated through a sampler that has no derivative (it would be zero)."""
    site, known = choice.equation.params["site"], facts(choice.equation)
    if known.nested or not known.parameters or (known.floating and known.differentiable):
        return
    others = "vi.enumerate(), vi.measure_valued() or vi.score()" if known.values is not None else "vi.score()"
    if known.floating:
        others = "vi.implicit() where the law has a cumulative probability, else vi.score()"
    raise StrategyError(
        f"The choice {site.address!r} ({site.source}) is to be reparameterised, but draws of its law, "
        f"{known.kind.__name__}, have no derivative in its parameters.\n"
        f"Expected: a continuous law with a differentiable sampler (`has_rsample`).\nFix: {others} there."
    )
