r"""Backward sampling: one path of a conditional run, whose ancestors are drawn anew from the end to the start.

    b_T ~ W_T,    b_t ~ W_t(i) p(the path behind t, its observations and factors | where particle i stands)

Law: with it conditional SMC leaves the program's measure invariant. Once b_(t+1) is drawn, the other particles behind t
are forgotten; they integrate to one, and what is left of resampling is the law of a single ancestor, W_t. So every
conditional scheme will do in which each place has that law (all of ours, see `ConditionalResample`).

References: Whiteley, discussion of Andrieu, Doucet, Holenstein, JRSS B 72 (2010), p. 306; Lindsten and Schon, "Backward
simulation methods for Monte Carlo statistical inference", Foundations and Trends in Machine Learning 6 (2013), section
5.4.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ppl.inference.drawing import Drawn
from ppl.inference.kernels import State
from ppl.inference.particle_runs import one_of, state_of
from ppl.semantics import scope
from ppl.semantics.looping import Marked, cast_of, each
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.semantics.representations import Particle
from ppl.semantics.retained import Retained, weights_of
from ppl.semantics.stages import Environment, Loop, Segment, plan_of, shared_values
from ppl.semantics.sweeping import futures_in_loop


class Behind(NamedTuple):
    """The place of the path at hand, and what it is behind it: values and masks by site."""

    place: Any
    values: Choices
    masks: Choices


class _At(NamedTuple):
    """Where in the program: the stage's name, the program, the run, the stages behind, what all particles share."""

    name: str
    program: Program
    drawn: Drawn
    later: tuple[Any, ...]
    shared: Environment

    def record(self, name: str) -> Any:
        """What the stage recorded."""
        return self.drawn.writes[f"{self.name}/{name}"]

    def retained(self, choices: Choices) -> Retained:
        """A path, as the sweep reads it."""
        return Retained(choices, self.program.staged.table, self.later, self.shared)


def backward_path(program: Program, drawn: Drawn, address: str) -> State:
    """Draw one of the last particles in proportion to weight, and its ancestors one by one; the path as a state.

    Args:
        program: The program that was swept, over its whole length.
        drawn: The run; it must have recorded where its particles stood (`conditional_sweep(backward="sampling")`).
        address: The site at which the last particle is drawn; ancestors are drawn under `address/stage 0` and so on.
    """
    shared, stages = shared_values(program), plan_of(program).stages
    path = Behind(one_of(drawn.value.log_weight, 0, address), {}, {})
    for number, stage in reversed(list(enumerate(stages))):
        at = _At(f"stage {number}", program, drawn, stages[number + 1 :], shared)
        with scope.under(f"{address}/{at.name}"):
            path = _through_loop(stage, at, path) if isinstance(stage, Loop) else _through_segment(stage, at, path)
    return state_of(program, path.values, path.masks)


def _made(at: _At, stage: Any) -> tuple[Choices, Choices]:
    """Choices and masks that all particles made at a stage."""
    latent = [a for a in sorted(stage.addresses) if at.program.staged.table[a].site.kind == "latent"]
    writes, masks = at.drawn.writes, at.drawn.masks
    return {a: writes[a] for a in latent if a in writes}, {a: masks[a] for a in latent if a in masks}


def _through_segment(stage: Segment, at: _At, path: Behind) -> Behind:
    values, masks = jax.tree.map(lambda x: x[path.place], _made(at, stage))
    values, masks = {**path.values, **values}, {**path.masks, **masks}
    own = at.record("ancestors")[path.place]
    if not stage.scores or not stage.inputs:  # nothing was resampled, or nothing tells particles apart
        return Behind(own, values, masks)
    standing = at.record("standing")
    futures = each(partial(at.retained(values).ahead, stage), standing["state"], batched=True)
    return Behind(one_of(standing["weight"] + weights_of(futures, own), own, "ancestor"), values, masks)


def _through_loop(stage: Loop, at: _At, path: Behind) -> Behind:
    """Step by step from the last one; the path's values are filled in from there."""
    made, entering = _made(at, stage), at.record("entering")
    cast = cast_of(stage, Particle(Marked(entering["values"], (), ()), entering["weight"]), at.shared, batched=True)
    consts = cast.among(cast.shared, "consts")
    before = dict(zip(stage.inputs, entering["values"], strict=True))

    def back(behind: Any, step: Any) -> Any:
        place, found = behind
        time, ancestors, standing, rows = step
        found = jax.tree.map(lambda column, x: column.at[time].set(x[place]), found, rows)
        carried, held = standing["state"]
        retained, own = at.retained({**path.values, **found[0]}), ancestors[place]
        futures = futures_in_loop(retained, cast, ({**consts, **carried}, held), time, before, batched=True)
        place = one_of(standing["weight"] + weights_of(futures, own), own, "ancestor")
        return (place.astype(path.place.dtype), found), None

    blank = jax.tree.map(lambda x: jnp.zeros((x.shape[0], *x.shape[2:]), x.dtype), made)
    steps = jnp.arange(stage.length), at.record("ancestors"), at.record("standing"), made
    start = path.place, blank
    (place, (values, masks)), _ = lax.scan(back, start, steps, reverse=not stage.loop.reverse)
    return Behind(place, {**path.values, **values}, {**path.masks, **masks})
