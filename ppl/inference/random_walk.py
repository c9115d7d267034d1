"""Random-walk Metropolis: all choices move at once, by Normal steps in R^n and by steps of integers.

Law: in detailed balance with the program's measure, since the steps are symmetric where the density is taken: in R^n
with the Jacobian for continuous choices. It does not tune its step size, and does not move choices inside branches.

Reference: Roberts, Gelman, Gilks, "Weak convergence and optimal scaling of random walk Metropolis algorithms", Annals
of Applied Probability 7 (1997): accept about a quarter of the steps in many dimensions.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist

from ppl.errors import MeasureError, ShapeError
from ppl.inference.combinators import on
from ppl.inference.flat import FlatDensity
from ppl.inference.kernels import Kernel, KernelMaker, State
from ppl.inference.method import positive
from ppl.inference.metropolis import LogRatio, Point, Ratio, settle
from ppl.semantics import choices as ch
from ppl.semantics.language import sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.semantics.unconstrained import Move


@dataclass(frozen=True)
class RandomWalk:
    """What `random_walk` makes."""

    step_size: float | tuple[float, ...]
    stride: int

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        _refuse_unwalkable(program)
        return partial(_walk_kernel, self, program)


def random_walk(
    step_size: float | tuple[float, ...] = 0.1, addresses: str | tuple[str, ...] | None = None, *, stride: int = 1
) -> KernelMaker:
    """All choices move at once: Normal steps in R^n for continuous ones, steps of integers for discrete ones.

    Continuous choices move in R^n (see `ppl.unconstrained`), so that a positive one takes steps of its logarithm.

    Args:
        step_size: Standard deviation of the steps in R^n; one for all, or one for each element.
        addresses: The choices to move, as in `ppl.inference.on`; by default all.
        stride: Discrete choices move by a uniform one of -stride, ..., stride; 0 among them.

    Raises:
        MeasureError: choices that lie inside branches, or are booleans.
        ShapeError: another number of step sizes than elements.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def waiting():
        ...     return ppl.sample("x", dist.Exponential(2.0))
        >>> step = random_walk(0.5)(waiting())(State({"x": jnp.array(1.0)}, {}))
        >>> list(step.sites)
        ['step/x', 'accept', 'accepted', 'acceptance', 'log_density']
    """
    sizes = tuple(map(float, step_size)) if isinstance(step_size, tuple | list) else float(step_size)
    if not all(0 < s < float("inf") for s in (sizes if isinstance(sizes, tuple) else (sizes,))):
        raise ValueError(f"random_walk(...) got step_size={step_size}.\nExpected: positive numbers.")
    walk = RandomWalk(sizes, positive("stride", stride))
    return walk if addresses is None else on(addresses, walk)


def _walk_kernel(move: RandomWalk, program: Program, state: State) -> Program:
    return Program.of(walk_step, (program, state, move))


def walk_step(program: Program, state: State, move: RandomWalk, log_ratio: LogRatio = sum) -> State:
    """The body of the random walk. Its proposal is symmetric in R^n, where the density holds the Jacobian."""
    free = _moved(program, state.choices, to_support=False)
    new = {address: _stepped(address, value, size) for (address, value), size in _sizes(program, free, move)}
    old_density, density = _free_density(program, free), _free_density(program, new)
    proposed = State(_moved(program, new, to_support=True), state.masks)
    ratio = Ratio(density - old_density, jnp.zeros_like(density), jnp.zeros_like(density))
    return settle(Point(state, old_density), Point(proposed, density), ratio, log_ratio)


def _moved(program: Program, choices: Choices, *, to_support: bool) -> Choices:
    staged = program.staged
    result = program.run(Move(to_support=to_support), ch.nest(choices, staged))[1]
    return ch.flatten(result.writes, staged, ("latent",))


def _free_density(program: Program, free: Choices) -> Any:
    return program.run(FlatDensity(), ch.nest(free, program.staged))[1].total


def _sizes(program: Program, free: Choices, move: RandomWalk) -> list[tuple[tuple[str, Any], Any]]:
    """Each choice in R^n with its step sizes (an integer: the stride of a discrete one)."""
    floats = {a: jnp.size(x) for a, x in free.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    sizes, start, found = move.step_size, 0, []
    if isinstance(sizes, tuple) and len(sizes) != sum(floats.values()):
        raise ShapeError(
            f"random_walk got {len(sizes)} step sizes for {program.name!r}.\nExpected: one number, or one for each of "
            f"the {sum(floats.values())} elements of its continuous choices: {floats}."
        )
    for address, value in free.items():
        size: Any = move.stride if address not in floats else sizes
        if address in floats and isinstance(sizes, tuple):
            size = jnp.array(sizes[start : start + floats[address]]).reshape(value.shape)
            start += floats[address]
        found.append(((address, value), size))
    return found


def _stepped(address: str, value: Any, size: Any) -> Any:
    if jnp.issubdtype(value.dtype, jnp.floating):
        law = dist.Normal(jnp.zeros(value.shape, value.dtype), size)
    else:
        law = dist.DiscreteUniform(-size, size).expand(value.shape)
    return value + sample(f"step/{address}", law).astype(value.dtype)


def _refuse_unwalkable(program: Program) -> None:
    ch.refuse_unbounded(program.staged, "kernel")
    infos = ch.latent_infos(program.staged).values()
    masked = [i for i in infos if i.masked]
    others = [
        i for i in infos if not jnp.issubdtype(i.dtype, jnp.floating) and not jnp.issubdtype(i.dtype, jnp.integer)
    ]
    if masked or others:
        why = "lie inside a branch, so that not every run makes them" if masked else "are no numbers"
        names = ", ".join(f"{i.address!r} ({i.source}, {i.distribution})" for i in masked or others)
        raise MeasureError(
            f"A random walk cannot move the choices {names} of {program.name!r}: they {why}.\n"
            "Expected: numbers that every run draws.\n"
            "Fix: random_walk(step_size, addresses) for the others, and ppl.inference.trace_mh_kernel for these."
        )
