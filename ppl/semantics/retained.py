"""A retained path in a sweep: the choices of the first particle, and how well any other particle leads to its future.

`Retained.reads` gives the first particle its choices; `Retained.ahead` and `Retained.ahead_in_loop` are the log density
of all choices, observations and factors from a stage on, with the choices of the retained path, for a particle that
stands before that stage. Where the carry of a loop is settled by its choices (a Markov chain of states), one step tells
all that differs between particles; else the rest of the program is replayed, at a cost that grows with its length.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ppl.errors import MeasureError
from ppl.semantics.handlers import Scoring
from ppl.semantics.interpreter import run, run_equations
from ppl.semantics.markov import carry_is_settled
from ppl.semantics.protocol import Choices, Outcome, Position, Result, SampleSite
from ppl.semantics.representations import Kept
from ppl.semantics.scoring import total_log_prob
from ppl.semantics.stages import Environment, Loop, Segment, Stage, Values
from ppl.semantics.table import Entry

Operands = Callable[[Any], list[Any]]
"""What a loop's body reads: from the place of a step's inputs to constants, the carry at hand, and the inputs."""


class Future(NamedTuple):
    """A retained future seen from a particle: its log density (nats), and which choices in branches it makes."""

    log_density: Any
    masks: Choices


def weights_of(future: Future, own: Any = 0) -> Any:
    """Log density of the retained future for each particle; of those that would make other choices, minus infinity.

    Args:
        future: With a leading axis of particles.
        own: The place of the one whose future it is.
    """
    total = future.log_density
    differ = [jnp.any((m != m[own][None]).reshape(len(total), -1), axis=1) for m in jax.tree.leaves(future.masks)]
    return jnp.where(jnp.any(jnp.stack(differ), axis=0), -jnp.inf, total) if differ else total


class Marking(Scoring):
    """The joint log density of given choices; writes a mark at each, so that the run tells which were made."""

    scores_given = True

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Score."""
        del where
        value = read if node.observed is None else node.observed
        mark = jnp.zeros((), bool) if node.observed is None else None
        return Outcome(value, total_log_prob(node.measure, value), mark)


class Retained(NamedTuple):
    """A path, as the sweep of a program reads it at one of its stages.

    Attributes:
        choices: The retained values by site, with the axis of time in loops.
        table: The sites of the program.
        later: The stages behind the one at hand.
        shared: What all particles share.
    """

    choices: Choices
    table: dict[str, Entry]
    later: tuple[Stage, ...]
    shared: Environment

    def reads(self, stage: Stage, place: Any, time: Any = None) -> Choices:
        """What the particle at a place reads at a stage, in a loop at one step: the first keeps its path."""
        found = {}
        for address, value in self._values(stage, time).items():
            entry = self.table[address]
            around = len(entry.infos[0].shape) - len(entry.signature.avals[0].shape) - (time is not None)
            axes = jax.tree.leaves(value)[0].shape[:around]
            found[address] = Kept(value, jnp.broadcast_to(place == 0, axes))
        return found

    def _values(self, stage: Stage, time: Any = None) -> Choices:
        mine = {address: self.choices[address] for address in sorted(stage.addresses) if address in self.choices}
        return mine if time is None else jax.tree.map(lambda x: x[time], mine)

    def ahead(self, stage: Segment, values: Values) -> "Future":
        """The retained future from a stage on, for a particle with these values before it."""
        return self._replayed((stage, *self.later), values)

    def _replayed(self, stages: Sequence[Stage], values: Values) -> "Future":
        total, masks = jnp.zeros((), jnp.result_type(float)), {}
        for index, stage in enumerate(stages):
            if not self._weighs(stages[index:]):
                break
            equations = (stage.equation,) if isinstance(stage, Loop) else stage.equations
            environment = {**self.shared, **dict(zip(stage.inputs, values, strict=True))}
            result = run_equations(equations, environment, Marking(), self._values(stage))
            total, masks = total + result.total, {**masks, **result.masks}
            values = tuple(environment[key] for key in stage.outputs)
        return Future(total, masks)

    def ahead_in_loop(self, stage: Loop, operands: Operands, time: Any, passing: Environment) -> "Future":
        """The retained future from a step of a loop on, for a particle before it.

        Args:
            stage: The loop.
            operands: What the particle's steps read; the carry is that before the step.
            time: The place of the step's inputs.
            passing: The particle's values that are made before the loop and read behind it.

        Raises:
            MeasureError: later sites read what the steps stack up.
        """
        if self.one_step_tells(stage):
            result = self._run(stage, operands(time), time)
            return Future(result.total, result.masks)
        future, carry = self._rest_of_loop(stage, operands, time)
        if not self._weighs(self.later):
            return future
        if stage.stacks:
            raise _stacked(stage, self.table[min(stage.addresses)])
        results = dict(zip(stage.equation.outvars, carry, strict=False))
        later = self._replayed(self.later, tuple({**passing, **results}[key] for key in stage.outputs))
        return Future(future.log_density + later.log_density, {**future.masks, **later.masks})

    def one_step_tells(self, stage: Loop) -> bool:
        """Whether particles before a step differ in what comes behind it only through that step."""
        loop = stage.loop
        first, last = loop.num_consts, loop.num_consts + loop.num_carry
        own = any(stage.moving[:first]) or any(stage.moving[last:])
        read_later = (stage.passing or stage.stacks) and self._weighs(self.later)
        return carry_is_settled(loop, self.choices) and not own and not read_later

    def _weighs(self, stages: Sequence[Stage]) -> bool:
        """Whether stages choose, observe or weigh."""
        return any(self.table[a].site.kind != "deterministic" for stage in stages for a in stage.addresses)

    def _run(self, stage: Loop, arguments: list[Any], time: Any) -> Result:
        return run(stage.loop.body, arguments, Marking(), self._values(stage, time), Position(loop=(time,)))

    def _rest_of_loop(self, stage: Loop, operands: Operands, now: Any) -> tuple["Future", list[Any]]:
        """The future from a step on, and the carry at the end."""
        loop = stage.loop
        first, last = loop.num_consts, loop.num_consts + loop.num_carry

        def body(state: Any, time: Any) -> Any:
            carry, total = state
            arguments = operands(time)
            result = self._run(stage, [*arguments[:first], *carry, *arguments[last:]], time)
            ahead = time <= now if loop.reverse else time >= now
            new = [jnp.where(ahead, after, before) for after, before in zip(result.outs, carry, strict=False)]
            return (new, total + jnp.where(ahead, result.total, 0.0)), {a: m & ahead for a, m in result.masks.items()}

        start = [jnp.asarray(x) for x in operands(now)[first:last]], jnp.zeros((), jnp.result_type(float))
        times = jnp.arange(loop.length, dtype=jnp.int32)
        (carry, total), masks = lax.scan(body, start, times, reverse=loop.reverse)
        return Future(total, masks), carry


def _stacked(stage: Loop, entry: Entry) -> MeasureError:
    return MeasureError(
        f"Ancestor sampling was asked in the loop of {entry.site.address!r} ({entry.site.source}), of {stage.length} "
        "steps, whose stacked outputs later sites read: how well a particle leads to the retained future then depends "
        "on its whole past.\n"
        "Expected: a loop of which later sites read the last state alone.\n"
        "Fix: backward=None, or observe inside the loop."
    )
