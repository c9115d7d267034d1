r"""From one program to the next: particles of traces are extended by a forward kernel and judged by a backward one.

A particle x of p is moved by auxiliary choices $u \sim K(\cdot \mid x)$ to $(x', v) = f(x, u)$, and its weight by

$$\frac{p'(x')\, L(v \mid x')}{p(x)\, K(u \mid x)} \left|\det \frac{\partial (x', v)}{\partial (x, u)}\right|,$$

with a backward kernel L whose run from (x', v) gives (x, u) again. Law: a population that stands for p then stands for
p', whatever K and L are, where K, L and f reach everything; the closer L is to the reverse of K, the less weights vary.
Lew et al., *SMCP3: Sequential Monte Carlo with probabilistic program proposals* (AISTATS 2023); del Moral, Doucet and
Jasra, *Sequential Monte Carlo samplers* (2006).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppl.errors import AddressError, MeasureError, PplError
from ppl.inference.involution_runs import DISCRETE, Run, described, drawn, replayed
from ppl.inference.jacobian import Coordinate, linearized, log_abs_det
from ppl.semantics import choices as ch
from ppl.semantics.handlers import Density
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.semantics.staging import StagedProgram

Kernel = Callable[[Choices], Program]


@dataclass(frozen=True)
class Extension:
    """How particles get from one program to the next.

    Args:
        forward: From the choices of the old program to a program of auxiliary choices, without observations. Without a
            `backward`, its choices are those that only the new program has, by its addresses. With one, it returns
            `(new_choices, backward_choices)`.
        backward: From the choices of the new program to a program of the backward choices that returns
            `(old_choices, forward_choices)`.
    """

    forward: Kernel
    backward: Kernel | None = None


class Extended(NamedTuple):
    """A particle after the step.

    Attributes:
        choices: Those of the new program.
        log_ratio: What its log weight grows by (nats).
        returned: Whether the backward program, run at the backward choices, gives the start again.
    """

    choices: Choices
    log_ratio: Any
    returned: Any


class Parts(NamedTuple):
    """The logarithms that make up the weight; those of the start count negatively."""

    new: Any
    backward: Any
    old: Any
    forward: Any
    jacobian: Any


def weight(parts: Parts) -> Any:
    """The log of the incremental weight."""
    return parts.new + parts.backward - parts.old - parts.forward + parts.jacobian


def extended(
    old: Program, new: Program, choices: Choices, how: Extension, log_ratio: Callable[[Parts], Any] = weight
) -> Extended:
    """Extend one particle, inside the model being traced. Another `log_ratio` than `weight` is wrong, for tests."""
    here, aux = replayed(old, choices), drawn(how.forward(choices))
    step = _grown if how.backward is None else _moved
    found, parts = step(old, new, (here, aux), how)
    ratio = jnp.where(here.log_density > -jnp.inf, log_ratio(parts), -jnp.inf)
    return found._replace(log_ratio=jnp.where(jnp.isnan(ratio) | ~found.returned, -jnp.inf, ratio))


def _grown(old: Program, new: Program, start: tuple[Run, Run], how: Extension) -> tuple[Extended, Parts]:
    """The old choices and the fresh ones are the new ones."""
    del old
    here, aux = start
    made, zero = {**here.state.choices, **aux.state.choices}, jnp.zeros(())
    there = replayed(new, _fitted(made, new.staged, how.forward))
    parts = Parts(there.log_density, zero, here.log_density, aux.log_density, zero)
    return Extended(there.state.choices, zero, jnp.ones((), bool)), parts


def _moved(old: Program, new: Program, start: tuple[Run, Run], how: Extension) -> tuple[Extended, Parts]:
    """A move by the forward program, judged by the backward one."""
    here, aux = start
    leaves, tree = jax.tree.flatten((here.state.choices, aux.state.choices))

    def function(*inner: Any) -> list[Any]:
        x, u = jax.tree.unflatten(tree, inner)
        y, v = returned_pair(how.forward(x), u, how.forward)
        y = _fitted(y, new.staged, how.forward)
        return jax.tree.leaves((y, _fitted(v, _backward(how, y).staged, how.forward)))

    def tree_of(y: Choices) -> Any:
        names = list(ch.latent_infos(new.staged)), list(ch.latent_infos(_backward(how, y).staged))
        return jax.tree.structure(tuple(dict.fromkeys(part, 0) for part in names))

    y, _ = returned_pair(how.forward(here.state.choices), aux.state.choices, how.forward)
    after = tree_of(_fitted(y, new.staged, how.forward))
    y, v = jax.tree.unflatten(after, function(*leaves))
    there, back = replayed(new, y), replayed(_backward(how, y), v, laws=True)
    map_at = linearized(function, leaves, _coordinates(here, aux), _coordinates(there, back))
    if map_at.matrix.shape[0] != map_at.matrix.shape[1]:
        raise MeasureError(
            f"The extension {described(how.forward)} turns {map_at.matrix.shape[1]} continuous numbers (old "
            f"and forward choices) into {map_at.matrix.shape[0]} (new and backward ones): there is no Jacobian.\n"
            "Expected: as many after the step as before.\n"
            "Fix: draw as many forward numbers as the new program has more, or backward ones where it has fewer."
        )
    again = returned_pair(_backward(how, y), v, how.backward)
    parts = Parts(there.log_density, back.log_density, here.log_density, aux.log_density, log_abs_det(map_at.matrix))
    same = _same((here.state.choices, aux.state.choices), again)
    return Extended(there.state.choices, jnp.zeros(()), same), parts


def _backward(how: Extension, choices: Choices) -> Program:
    assert how.backward is not None
    return how.backward(choices)


def returned_pair(program: Program, choices: Choices, kernel: Any) -> tuple[Choices, Choices]:
    """What a forward or backward program returns at given choices of its own.

    Raises:
        TypeError: it is not a pair of dicts.
    """
    value, _ = program.run(Density(), ch.nest(choices, program.staged))
    if not (isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, dict) for part in value)):
        raise TypeError(
            f"The program of {described(kernel)} returned a {type(value).__name__}.\n"
            "Expected: a pair of dicts by address: the choices on the other side, and those of the program that leads "
            "back."
        )
    return value


def _fitted(choices: Any, staged: StagedProgram, kernel: Any) -> Choices:
    """Choices in the shapes and dtypes of a program's, or an error that names the kernel."""
    try:
        nested = ch.checked(choices, staged, "extend to", complete=True)
    except PplError as error:
        raise type(error)(f"The choices that {described(kernel)} leads to do not fit.\n{error}") from error
    return ch.flatten(nested, staged, ("latent",))


def _coordinates(first: Run, second: Run) -> list[Coordinate]:
    """What is known of each array of a pair of runs' choices."""
    found = []
    for run in (first, second):
        for address in sorted(run.state.choices):
            continuous = run.kinds[address].shape[-1] != DISCRETE
            if continuous and address in run.state.masks:
                raise AddressError(
                    f"The continuous choice {address!r} lies inside a branch; there is a backward program.\n"
                    "Expected: continuous choices that every run makes.\n"
                    "Fix: draw it outside the branch, or extend without a backward program."
                )
            found.append(Coordinate(continuous, masked=False))
    return found


def _same(start: Any, again: Any) -> Any:
    """Whether a way there and back returned the start, up to the square root of the float precision."""
    if jax.tree.structure(start) != jax.tree.structure(again):
        raise AddressError(
            f"The backward program returned choices {jax.tree.structure(again)}.\n"
            f"Expected: those of the old program and of the forward one, {jax.tree.structure(start)}."
        )
    flags = [jnp.all(_close(x, jnp.asarray(y))) for x, y in zip(*map(jax.tree.leaves, (start, again)), strict=True)]
    return jnp.all(jnp.stack(flags)) if flags else jnp.ones((), bool)


def _close(x: Any, y: Any) -> Any:
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x == y
    tolerance = jnp.sqrt(jnp.finfo(x.dtype).eps)
    return jnp.abs(x - y) <= tolerance * (1.0 + jnp.abs(x))
