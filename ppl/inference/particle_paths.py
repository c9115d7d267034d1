"""The paths of particles: what each made at every stage of a sweep, along its line of ancestors.

A sweep records choices where they were drawn, and whose place each particle took at each resampling. Following the
ancestors back from the last particles gives, for each of them, one value an address: a draw of the program's choices.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int32

from ppl.inference.drawing import Drawn
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.semantics.stages import Loop, plan_of


def paths(
    program: Program, drawn: Drawn, line: Any = None, *, until: int | None = None, loops: bool = True
) -> tuple[Choices, Choices]:
    """Values and masks by site of the program, each with a leading axis of particles.

    Args:
        program: The program that was swept, over its whole length.
        drawn: The run of the sweep's layer.
        line: The places of the last particles to follow, (particles,); by default all.
        until: The number of the stage before which the paths end; by default at the end of the program.
        loops: Whether to follow what loops made; otherwise they must have recorded the `origin` of each particle.

    Returns:
        What each of these particles and its ancestors wrote; which branches it took.
    """
    found: Choices = {}
    masks: Choices = {}
    for number, stage in reversed(list(enumerate(plan_of(program).stages[:until]))):
        if isinstance(stage, Loop) and not loops:
            origin = drawn.writes[f"stage {number}/origin"]
            line = origin if line is None else origin[line]
            continue
        ancestors = drawn.writes[f"stage {number}/ancestors"]
        if line is None:
            line = jnp.arange(ancestors.shape[-1], dtype=ancestors.dtype)
        along, line = _loop_lines(stage, ancestors, line) if isinstance(stage, Loop) else (line, ancestors[line])
        for address in stage.addresses:
            for part, written in ((found, drawn.writes), (masks, drawn.masks)):
                if address in written:
                    part[address] = jax.tree.map(lambda x, along=along: _taken(x, along), written[address])
    return found, masks


def _loop_lines(
    stage: Loop, ancestors: Int32[Array, "steps particles"], line: Int32[Array, "lines"]
) -> tuple[Int32[Array, "steps lines"], Int32[Array, "lines"]]:
    """The places of the ancestors at each step of a loop, and before it."""

    def back(line: Any, above: Any) -> Any:
        return above[line], line

    before, along = lax.scan(back, line, ancestors, reverse=not stage.loop.reverse)
    return along, before


def _taken(x: Any, along: Any) -> Any:
    """Values (particles, ...) or (steps, particles, ...) along lines of ancestors, particles first."""
    if along.ndim == 1:
        return x[along]
    return jnp.moveaxis(jax.vmap(lambda row, line: row[line])(x, along), 0, 1)
