"""A program's continuous choices as one vector in R^n: where random-walk and gradient-based kernels move.

    log_density(u) = log density of the program at x(u) + log |det dx / du|,    u in R^n

x(u) is the bijection from R^n to the supports (see `ppl.unconstrained`), computed in the same run as the density. Law:
`choices(vector(x)) = x`, and the push-forward of `exp(log_density)` by `choices` is the program's measure. A program
with discrete choices, or with choices that are not always made, has no such vector: the error names them.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppl.errors import MeasureError
from ppl.semantics import choices as ch
from ppl.semantics.handlers import Scoring
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Outcome, Position, SampleSite
from ppl.semantics.scoring import total_log_prob
from ppl.semantics.staging import StagedProgram
from ppl.semantics.unconstrained import Move, pulled_back
from ppl.typing import PRNGKey


class Slot(NamedTuple):
    """Where one address lives in the vector: its shape in R^n and the first of its elements."""

    address: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)


class FlatDensity(Scoring):
    """The joint log density of choices given in R^n, with the Jacobian. Writes the constrained values."""

    scores_given = True

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Push the given value to its support and score it there; the program goes on with the constrained value."""
        del where
        if node.observed is not None:
            return Outcome(node.observed, total_log_prob(node.measure, node.observed))
        pullback = pulled_back(node)
        if pullback is None:
            return Outcome(read, total_log_prob(node.measure, read), read)
        score = jnp.sum(pullback.log_prob(read)).astype(jnp.result_type(float))
        value = pullback.transform(read)
        return Outcome(value, score, value)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Flat:
    """The continuous choices of a program as one vector; a pytree.

    Attributes:
        program: The program. All of its latent choices are continuous and always made.
    """

    program: Program

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Where each address lives in the vector."""
        return _slots(Structure(self.program))

    @property
    def dim(self) -> int:
        """The length of the vector."""
        return sum(slot.size for slot in self.slots)

    def log_density(self, vector: Float[Array, "dim"]) -> Float[Array, ""]:
        """Log density (nats) of the unconstrained choices; differentiable, to be called inside `jit`."""
        return self.program.run(FlatDensity(), self._nested(vector))[1].total

    def choices(self, vector: Float[Array, "dim"]) -> Choices:
        """The constrained choices by address."""
        result = self.program.run(Move(to_support=True), self._nested(vector))[1]
        return ch.flatten(result.writes, self.program.staged, ("latent",))

    def vector(self, choices: Choices) -> Float[Array, "dim"]:
        """The vector of constrained choices; NaN where a value lies outside its support."""
        staged = self.program.staged
        result = self.program.run(Move(to_support=False), ch.nest(choices, staged))[1]
        free = ch.flatten(result.writes, staged, ("latent",))
        parts = [jnp.reshape(free[slot.address], (-1,)) for slot in self.slots]
        return jnp.concatenate(parts) if parts else jnp.zeros(0, jnp.result_type(float))

    @property
    def note(self) -> str:
        """What is to be said of it: nothing."""
        return ""

    def recover(self, key: PRNGKey, choices: Choices) -> Choices:
        """Choices that were summed out, given the others: there are none."""
        del key, choices
        return {}

    def free(self, vector: Float[Array, "dim"]) -> Choices:
        """The choices in R^n by address: the vector taken apart."""
        return taken_apart(self.slots, vector)

    def _nested(self, vector: Any) -> Choices:
        return ch.nest(self.free(vector), self.program.staged)


def taken_apart(slots: tuple[Slot, ...], vector: Float[Array, "dim"]) -> Choices:
    """The elements of a vector by address."""
    return {s.address: vector[s.start : s.start + s.size].reshape(s.shape) for s in slots}


class Structure:
    """A program, equal to all others of the same function, static arguments and shapes: the key of a cache."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.key = (program.function, program.arguments, *((jnp.shape(x), jnp.result_type(x)) for x in program.dynamic))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@lru_cache(maxsize=1024)
def _slots(structure: Structure) -> tuple[Slot, ...]:
    program, slots, start = structure.program, [], 0
    staged = program.staged
    refuse_unsuitable(program.name, staged)
    latent = ch.latent_infos(staged)

    def free(choices: Choices) -> Choices:
        result = program.run(Move(to_support=False), ch.nest(choices, staged))[1]
        return ch.flatten(result.writes, staged, ("latent",))

    avals = jax.eval_shape(free, ch.values_like(staged, list(latent)))
    for address in latent:
        slots.append(Slot(address, avals[address].shape, start))
        start += slots[-1].size
    return tuple(slots)


def refuse_unsuitable(name: str, staged: StagedProgram) -> None:
    """Raise where a choice is discrete, not always made, or made an unknown number of times.

    Raises:
        MeasureError: naming the choices, their lines, and what to do.
        UnboundedError: a choice lies inside a `while_loop`.
    """
    ch.refuse_unbounded(staged, "unconstrained vector")
    infos = ch.latent_infos(staged).values()
    discrete = [i for i in infos if not jnp.issubdtype(i.dtype, jnp.floating)]
    masked = [i for i in infos if i.masked]
    if discrete:
        names = ", ".join(f"{i.address!r} ({i.source}, {i.distribution})" for i in discrete)
        raise MeasureError(
            f"The choices {names} of {name!r} are discrete, so that they have no place in R^n.\n"
            "Expected: continuous choices only.\n"
            "Fix: sum finite choices out (ppl.NUTS() does it where it can; program.marginal([...]) by hand), move the "
            "others with ppl.inference.on(addresses, kernel), or use ppl.MH()."
        )
    if masked:
        names = ", ".join(f"{i.address!r} ({i.source})" for i in masked)
        raise MeasureError(
            f"The choices {names} of {name!r} lie inside a branch, so that the number of choices varies.\n"
            "Expected: choices that every run makes.\n"
            "Fix: draw them outside the branch, use ppl.MH(), or ppl.inference.involutive with a "
            "dimension-changing move."
        )
