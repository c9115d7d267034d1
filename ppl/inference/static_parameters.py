"""Parameters and states: which choices a particle method moves by Metropolis-Hastings, and which by particles.

Also moves of parameters in R^n: `walk` steps from values to values with the Jacobians of both ways.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist

from ppl.errors import MeasureError
from ppl.inference.combinators import addresses_matching, refuse_varying
from ppl.semantics import choices as ch
from ppl.semantics.handlers import Density
from ppl.semantics.language import sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Handler, Outcome, Position, SampleSite
from ppl.semantics.scoring import total_log_prob
from ppl.semantics.site import Site
from ppl.semantics.slicing import slice_of
from ppl.semantics.stages import Loop, plan_of
from ppl.semantics.unconstrained import pulled_back


class Split(NamedTuple):
    """The latent addresses of a program, in two parts."""

    parameters: tuple[str, ...]
    states: tuple[str, ...]


def split_of(program: Program, parameters: Sequence[str] | None, states: Sequence[str] | None = None) -> Split:
    """Which choices are parameters, and which are states.

    Args:
        program: The program.
        parameters: Addresses or patterns; by default all that are no states.
        states: Addresses or patterns; by default all that are no parameters, and where neither is given those inside
            the loops that observe or weigh.

    Raises:
        AddressError: a pattern matches nothing.
        MeasureError: there are no such loops, an address is in neither part or in both, or the states decide which
            choices are made.
    """
    latent = tuple(ch.latent_infos(program.staged))
    inside = {a for stage in plan_of(program).stages if isinstance(stage, Loop) for a in stage.addresses}
    named = None if parameters is None else addresses_matching(program, parameters)
    moved = None if states is None else addresses_matching(program, states)
    if named is None and moved is None:
        moved = tuple(a for a in latent if a in inside)
    named = tuple(a for a in latent if a not in (moved or ())) if named is None else named
    moved = tuple(a for a in latent if a not in named) if moved is None else moved
    if not moved or set(named) & set(moved) or set(named) | set(moved) != set(latent):
        raise _not_split(program, named, moved)
    if named:
        refuse_varying(program, moved)
    return Split(named, moved)


def _not_split(program: Program, parameters: tuple[str, ...], states: tuple[str, ...]) -> MeasureError:
    return MeasureError(
        f"The choices of {program.name!r} do not fall into parameters and states: got parameters {list(parameters)} "
        f"and states {list(states)}.\n"
        f"Expected: each of {list(ch.latent_infos(program.staged))} in one of the two, and at least one state. By "
        "default the states are the choices inside loops that observe or weigh.\n"
        "Fix: name one of the two: parameters=[...] or states=[...]."
    )


# --- density terms ----------------------------------------------------------------------------------------------------


class Unreached(Density):
    """The log density of the terms that some choices do not reach."""

    def __init__(self, reached: frozenset[str]) -> None:
        self.reached = reached

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Score what is not reached."""
        del where
        value = read if node.observed is None else node.observed
        return Outcome(value, self.zero() if node.address in self.reached else total_log_prob(node.measure, value))

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """Count what is not reached."""
        del where
        counts = site.address not in self.reached
        return Outcome(None, jnp.sum(log_weight).astype(jnp.result_type(float)) if counts else self.zero())


def unreached_density(program: Program, choices: Choices, states: tuple[str, ...]) -> Any:
    """Log density (nats) of the terms that do not depend on the states: the prior of the parameters, above all."""
    found = slice_of(program, states)
    reached = frozenset() if found is None else found.reach.terms
    return program.run(Unreached(reached), ch.nest(choices, program.staged))[1].total


# --- moves in R^n -----------------------------------------------------------------------------------------------------


class Across(Handler):
    """Take some choices across the bijection from R^n to their supports; the total is log |det dx/du| (nats)."""

    def __init__(self, names: tuple[str, ...], *, to_support: bool) -> None:
        self.names, self.to_support = names, to_support

    def zero(self) -> Any:
        """No volume."""
        return jnp.zeros((), jnp.result_type(float))

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Move the value; the program goes on with the constrained one."""
        del where
        value = read if node.observed is None else node.observed
        pullback = pulled_back(node) if node.address in self.names else None
        if pullback is None:
            return Outcome(value, self.zero(), value)
        free = value if self.to_support else pullback.transform.inv(value)
        pushed = pullback.transform(free) if self.to_support else value
        volume = jnp.sum(pullback.transform.log_abs_det_jacobian(free, pushed)).astype(jnp.result_type(float))
        return Outcome(pushed, volume, pushed if self.to_support else free)


class Moved(NamedTuple):
    """Proposed values of all choices, and the log of q(old | new) / q(new | old) (nats)."""

    choices: Choices
    log_ratio: Any


def across(program: Program, choices: Choices, names: tuple[str, ...], *, to_support: bool) -> tuple[Choices, Any]:
    """Choices with some of them on the other side of their bijections, and log |det dx/du|."""
    staged = program.staged
    result = program.run(Across(names, to_support=to_support), ch.nest(choices, staged))[1]
    found = ch.flatten(result.writes, staged, ("latent",))
    return {**choices, **{name: found[name] for name in names}}, result.total


@dataclass(frozen=True)
class Walk:
    """Normal steps in R^n for continuous parameters, steps of integers for the others.

    Attributes:
        step_size: Standard deviations in R^n: one for all, or one for each element.
        stride: Discrete ones move by a uniform one of -stride, ..., stride.
    """

    step_size: float | tuple[float, ...] = 0.1
    stride: int = 1

    def __call__(self, program: Program, choices: Choices, names: tuple[str, ...]) -> Moved:
        """Propose values of the parameters of these names; their draws are at `step/...`."""
        free, volume = across(program, choices, names, to_support=False)
        moved = {name: self._stepped(name, free[name], size) for name, size in self._sizes(free, names)}
        proposed, there = across(program, {**free, **moved}, names, to_support=True)
        return Moved(proposed, there - volume)

    def _sizes(self, free: Choices, names: tuple[str, ...]) -> list[tuple[str, Any]]:
        found, start = [], 0
        for name in names:
            size: Any = self.step_size
            if isinstance(size, tuple):
                count = jnp.size(free[name])
                size = jnp.asarray(size[start : start + count]).reshape(jnp.shape(free[name]))
                start += count
            found.append((name, size))
        return found

    def _stepped(self, name: str, value: Any, size: Any) -> Any:
        if jnp.issubdtype(value.dtype, jnp.floating):
            law = dist.Normal(jnp.zeros(value.shape, value.dtype), jnp.asarray(size, value.dtype))
        else:
            law = dist.DiscreteUniform(-self.stride, self.stride).expand(value.shape)
        return value + sample(f"step/{name}", law).astype(value.dtype)
