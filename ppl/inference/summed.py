"""A program's continuous choices as one vector in R^n, its finite choices summed out.

    log_density(u) = log of the sum over finite choices z of density(x(u), z) + log |det dx / du|,    u in R^n

The same interface as `Flat`. The sum follows the program's structure: plates and `ppl.vmap` element by element, chains
in a `scan` by forward elimination. `recover` draws the finite choices from their exact conditional law afterwards. The
supports of continuous choices must not depend on finite ones; the error names those that do.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppl.distributions.finite import pick
from ppl.errors import MeasureError
from ppl.inference.flat import Slot, Structure
from ppl.semantics import choices as ch
from ppl.semantics import jaxpr as jp
from ppl.semantics.elimination import summed
from ppl.semantics.enumeration import finite_outcomes
from ppl.semantics.posterior_sampling import draw_finite, is_finite, shaped
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Handler, Outcome, Position, SampleSite
from ppl.semantics.unconstrained import Move, pulled_back
from ppl.typing import PRNGKey


class Passing(Handler):
    """Move the continuous choices; finite ones take their first outcome (no support depends on it)."""

    def __init__(self, *, to_support: bool, finite: dict[str, tuple[int, ...]] | None = None) -> None:
        self.move, self.finite = Move(to_support=to_support), {} if finite is None else finite

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Move a continuous choice; pass a finite one."""
        if not is_finite(node):
            return self.move.sample(node, read, where)
        found = finite_outcomes(node)
        self.finite[node.address] = (*found.log_probs.shape[1:], found.log_probs.shape[0])
        return Outcome(shaped(pick(found, jnp.zeros(found.log_probs.shape[1:], int))[0], node), ())


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Summed:
    """The continuous choices of a program as one vector, the finite ones summed out; a pytree.

    Attributes:
        program: The program. Its latent choices are continuous and always made, or finite.
    """

    program: Program

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Where each continuous address lives in the vector."""
        return _layout(Structure(self.program))[0]

    @property
    def finite(self) -> dict[str, tuple[int, ...]]:
        """The sites summed out: for each the shape of its elements in one run of its code, and its outcomes."""
        return _layout(Structure(self.program))[1]

    @property
    def dim(self) -> int:
        """The length of the vector."""
        return sum(slot.size for slot in self.slots)

    @property
    def note(self) -> str:
        """What was summed out, in one sentence: "Summed out: z (1,000 lanes of 3 outcomes)."."""
        around = _loops_around(self.program.jaxpr, ())
        return "Summed out: " + ", ".join(_told(a, around[a], shape) for a, shape in self.finite.items()) + "."

    def log_density(self, vector: Float[Array, "dim"]) -> Float[Array, ""]:
        """Log density (nats) of the unconstrained choices; differentiable, to be called inside `jit`."""
        return summed(self.program, self._nested(vector), push=_push)

    def choices(self, vector: Float[Array, "dim"]) -> Choices:
        """The constrained continuous choices by address."""
        result = self.program.run(Passing(to_support=True), self._nested(vector))[1]
        return ch.flatten(result.writes, self.program.staged, ("latent",))

    def vector(self, choices: Choices) -> Float[Array, "dim"]:
        """The vector of constrained choices (finite ones among them are ignored); NaN outside a support."""
        staged = self.program.staged
        own = {slot.address: choices[slot.address] for slot in self.slots}
        result = self.program.run(Passing(to_support=False), ch.nest(own, staged))[1]
        free = ch.flatten(result.writes, staged, ("latent",))
        parts = [jnp.reshape(free[slot.address], (-1,)) for slot in self.slots]
        return jnp.concatenate(parts) if parts else jnp.zeros(0, jnp.result_type(float))

    def recover(self, key: PRNGKey, choices: Choices) -> Choices:
        """The finite choices, drawn jointly from their exact conditional law given the continuous ones."""
        return draw_finite(self.program, key, {slot.address: choices[slot.address] for slot in self.slots})

    def free(self, vector: Float[Array, "dim"]) -> Choices:
        """The choices in R^n by address: the vector taken apart."""
        return {s.address: vector[s.start : s.start + s.size].reshape(s.shape) for s in self.slots}

    def _nested(self, vector: Any) -> Choices:
        return ch.nest(self.free(vector), self.program.staged)


def _push(node: SampleSite, read: Any) -> tuple[Any, Any]:
    pullback = pulled_back(node)
    if pullback is None:
        return read, jnp.zeros((), jnp.result_type(float))
    value = pullback.transform(read)
    return value, jnp.sum(pullback.transform.log_abs_det_jacobian(read, value)).astype(jnp.result_type(float))


def _loops_around(jaxpr: Any, outer: tuple[tuple[str, int], ...]) -> dict[str, tuple[tuple[str, int], ...]]:
    """For each site the scans and lanes around it with their lengths."""
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    for equation in jaxpr.eqns:
        if equation.primitive in jp.SITES:
            found[equation.params["site"].address] = outer
        elif jp.has_sites(equation):
            name = equation.primitive.name
            length = equation.params.get("size" if name == "lanes" else "length")
            inner = (*outer, (name, length)) if name in ("lanes", "scan") else outer
            for code in jp.inner_codes(equation):
                found |= _loops_around(code.jaxpr, inner)
    return found


def _told(address: str, around: tuple[tuple[str, int], ...], shape: tuple[int, ...]) -> str:
    """One site's part of the note."""
    lanes = math.prod(n for kind, n in around if kind == "lanes") * math.prod(shape[:-1])
    steps = math.prod(n for kind, n in around if kind == "scan")
    outcomes = f"{shape[-1]} outcomes"
    if any(kind == "scan" for kind, _ in around):
        chain = f"chain of {steps:,} steps, {outcomes}"
        return f"{address} ({chain})" if lanes == 1 else f"{address} ({lanes:,} lanes, each a {chain})"
    return f"{address} ({outcomes})" if lanes == 1 else f"{address} ({lanes:,} lanes of {outcomes})"


@lru_cache(maxsize=1024)
def _layout(key: Structure) -> tuple[tuple[Slot, ...], dict[str, tuple[int, ...]]]:
    program, finite = key.program, {}
    staged = program.staged
    ch.refuse_unbounded(staged, "unconstrained vector")
    latent = ch.latent_infos(staged)

    def free(choices: Choices) -> Choices:
        result = program.run(Passing(to_support=False, finite=finite), ch.nest(choices, staged))[1]
        return ch.flatten(result.writes, staged, ("latent",))

    avals = jax.eval_shape(free, ch.values_like(staged, list(latent)))
    moved = [address for address in latent if address in avals]
    _refuse_unsuitable(program, moved)
    slots, start = [], 0
    for address in moved:
        slots.append(Slot(address, avals[address].shape, start))
        start += slots[-1].size
    like = {slot.address: jax.ShapeDtypeStruct(slot.shape, jnp.result_type(float)) for slot in slots}
    jax.eval_shape(lambda u: summed(program, ch.nest(u, staged), push=_push), like)
    return tuple(slots), finite


def _refuse_unsuitable(program: Program, addresses: list[str]) -> None:
    infos = [ch.latent_infos(program.staged)[address] for address in addresses]
    endless = [i for i in infos if not jnp.issubdtype(i.dtype, jnp.floating)]
    masked = [i for i in infos if i.masked and i not in endless]
    if endless:
        names = ", ".join(f"{i.address!r} ({i.source}, {i.distribution})" for i in endless)
        raise MeasureError(
            f"The choices {names} of {program.name!r} are discrete without finitely many outcomes known while tracing, "
            "so that they cannot be summed out.\nExpected: continuous or finite choices.\n"
            "Fix: move them with ppl.inference.on(addresses, kernel), use ppl.MH(), or bound their number of outcomes."
        )
    if masked:
        names = ", ".join(f"{i.address!r} ({i.source})" for i in masked)
        raise MeasureError(
            f"The continuous choices {names} of {program.name!r} lie inside a branch, so that their number varies.\n"
            "Expected: continuous choices that every run makes.\nFix: draw them outside the branch, or use ppl.MH()."
        )
