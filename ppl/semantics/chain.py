"""Forward elimination: a chain of finite choices in a `scan`, summed in time linear in its length.

The carry of the loop depends on the last choice (or the last few). A table of log weights over those choices goes
through the loop with it; every step multiplies in its factors and sums out what the new carry no longer depends on.
For a hidden Markov model this is the forward algorithm.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl.errors import NotFiniteError
from ppl.semantics import jaxpr as jp
from ppl.semantics.constants import is_known
from ppl.semantics.dataflow import outputs_that_move
from ppl.semantics.liveness import scan_carry
from ppl.semantics.named import EMPTY, Dims, Named, aligned, product, refuse_lanes, sum_out, union
from ppl.semantics.protocol import Choices
from ppl.semantics.table import addresses_in

_MOST_PEELED = 6
"""How many steps are taken one by one before the tables must keep their shape."""


def refuse_escape(outs: Sequence[Named], is_local: Callable[[int], bool], code: jp.Code, where: str) -> None:
    """Raise where a value that is used outside depends on a choice that is summed inside."""
    if any(is_local(dim) for dim in union(outs)):
        raise NotFiniteError(
            f"A finite choice among {sorted(addresses_in(code.jaxpr))} leaves its {where}: a value that depends on it "
            "is used outside, so that it cannot be summed out inside.\nMove what depends on it (observations above "
            f"all) into the same {where}, or keep its address."
        )


def _full(piece: Named, dims: Dims, sizes: list[int]) -> Any:
    array = aligned(piece, dims)
    return jnp.broadcast_to(array, (*sizes, *array.shape[len(dims) :]))


def _same(before: Named, after: Named) -> bool:
    """Whether a carried value is known while tracing and is the same after a step."""
    if not (is_known(before) and is_known(after)) or before.dims != after.dims:
        return False
    if not jnp.issubdtype(jnp.result_type(after.array), jnp.integer):
        return False
    return np.array_equal(np.asarray(before.array), np.asarray(after.array))


def _filled(arrays: Sequence[Any], state: list[Named], fixed: list[bool]) -> list[Named]:
    """The carried values, those that do not change from the state."""
    rest = iter(arrays)
    return [value if use else value._replace(array=next(rest)) for value, use in zip(state, fixed, strict=True)]


class Chain:
    """One `scan` being summed: steps one by one until the tables keep their shape, the rest in a `lax.scan`."""

    def __init__(
        self, elimination: Any, equation: Any, operands: list[Named], given: Choices, wanted: list[bool]
    ) -> None:
        refuse_lanes(operands)
        self.elimination, self.wanted = elimination, wanted
        self.loop = loop = jp.loop_of(equation)
        self.consts, rest = operands[: loop.num_consts], operands[loop.num_consts :]
        self.init, self.xs = rest[: loop.num_carry], rest[loop.num_carry :]
        self.live = scan_carry(equation, wanted)
        self.given = {a: v for a, v in given.items() if a in addresses_in(loop.body.jaxpr)}
        self.start = elimination.mark()
        self.keys = elimination.variables.split(loop.length)
        self.known_slots: list[int] = []
        self.alpha = Named(jnp.zeros((), jnp.result_type(float)))
        self.absorbed: frozenset[int] = frozenset()

    @property
    def entering(self) -> set[int]:
        """The variables that enter the loop through the initial carry alone."""
        return set(union(self.init)) - set(union([*self.consts, *self.xs]))

    def absorb(self, factors: list[Named], variables: set[int]) -> list[Named]:
        """Take over variables that nothing else will use, with their factors; returns the other factors.

        Where stacked outputs are needed they may depend on those variables, which then stay outside.
        """
        if any(self.wanted[self.loop.num_carry :]):
            return factors
        self.absorbed = frozenset(variables)
        mine = [factor for factor in factors if variables & set(factor.dims)]
        self.alpha = product([self.alpha, *mine])
        return [factor for factor in factors if not variables & set(factor.dims)]

    def is_local(self, variable: int) -> bool:
        """Whether the chain may sum a variable out."""
        return variable >= self.start or variable in self.absorbed

    def run(self) -> tuple[list[Named], list[Named]]:
        """The final carries and the factor that is left."""
        state, alpha, peeled, form = [*self.init], self.alpha, 0, None
        collected: list[list[Named]] = []
        before: list[Named] = []
        while peeled < self.loop.length and peeled < _MOST_PEELED:
            before = state
            key = None if self.keys is None else self.keys[peeled]
            with self.elimination.variables.keyed(key):
                state, alpha, ys = self.step(state, alpha, self.inputs(peeled), self.reads(peeled))
            state, alpha = self.canonical(state, alpha)
            collected.append(ys)
            peeled += 1
            previous, form = form, self.form(state, alpha)
            if form == previous:
                break
        else:
            if peeled < self.loop.length:
                raise self._growing()
        if peeled < self.loop.length:
            state, alpha, rest = self.remaining(state, alpha, peeled, [*map(_same, before, state)])
        else:
            rest = []
        return [*state, *self.outputs(collected, rest)], [alpha]

    def step(
        self, state: list[Named], alpha: Named, xs: list[Named], reads: Choices
    ) -> tuple[list[Named], Named, list[Named]]:
        """One step of the loop, with every choice summed that the carried values do not depend on."""
        after, factors, ys = self.terms(state, xs, reads)
        return after, self.reduced(after, [*factors, alpha]), ys

    def terms(
        self, state: list[Named], xs: list[Named], reads: Choices
    ) -> tuple[list[Named], list[Named], list[Named]]:
        """The carried values after a step, the step's factors, and its outputs."""
        carry = self.loop.num_carry
        outs, factors = self.elimination.run(
            self.loop.body, [*self.consts, *state, *xs], reads, [*self.live, *self.wanted[carry:]]
        )
        after = [out if live else old for out, old, live in zip(outs[:carry], state, self.live, strict=True)]
        ys = [y if use else EMPTY for y, use in zip(outs[carry:], self.wanted[carry:], strict=True)]
        refuse_escape(ys, self.is_local, self.loop.body, "scan")
        refuse_lanes([a for a, live in zip(after, self.live, strict=True) if live])
        refuse_lanes(ys)
        return after, factors, ys

    def reduced(self, after: list[Named], factors: list[Named]) -> Named:
        """The product of factors with every choice summed that the carried values do not depend on."""
        kept = {
            dim for dim in union([a for a, live in zip(after, self.live, strict=True) if live]) if self.is_local(dim)
        }
        gone = {dim for dim in union(factors) if self.is_local(dim)} - kept
        return product(sum_out(factors, sorted(gone), self.elimination.variables))

    def canonical(self, state: list[Named], alpha: Named) -> tuple[list[Named], Named]:
        """Rename the variables that are left to the chain's slots, in order."""
        local = [dim for dim in union([*state, alpha]) if self.is_local(dim)]
        slots = self.slots([self.elimination.sizes[dim] for dim in local])
        names = dict(zip(local, slots, strict=True))

        def rename(named: Named) -> Named:
            return Named(named.array, tuple(names.get(dim, dim) for dim in named.dims))

        return [rename(value) for value in state], rename(alpha)

    def slots(self, sizes: list[int]) -> list[int]:
        """The chain's own variables of the given sizes (the same ones at every step)."""
        if [self.elimination.sizes[slot] for slot in self.known_slots] != sizes:
            self.known_slots = [self.elimination.fresh(size) for size in sizes]
        return self.known_slots

    def form(self, state: list[Named], alpha: Named) -> Any:
        """What must be equal from step to step."""
        return tuple((value.dims, jnp.shape(value.array)) for value in (*state, alpha))

    def remaining(
        self, state: list[Named], alpha: Named, peeled: int, fixed: list[bool]
    ) -> tuple[list[Named], Named, list[Named]]:
        """All further steps as one loop; carried values that are known and do not change stay outside it."""
        y_dims: list[Dims] = []
        changed: list[bool] = []

        def body(carry: Any, step: Any) -> Any:
            arrays, log_weights = carry
            xs = [Named(array, x.dims) for array, x in zip(step[0], self.xs, strict=True)]
            before = _filled(arrays, state, fixed)
            with self.elimination.variables.keyed(step[2]):
                after, new, ys = self.step(before, Named(log_weights, alpha.dims), xs, step[1])
            after, new = self.canonical(after, new)
            if self.form(after, new) != self.form(before, Named(log_weights, alpha.dims)):
                raise self._growing()
            y_dims[:] = [y.dims for y in ys]
            changed[:] = [use and not _same(old, now) for use, old, now in zip(fixed, before, after, strict=True)]
            moving = [value.array for value, use in zip(after, fixed, strict=True) if not use]
            return (moving, new.array), [y.array for y in ys]

        xs, reads, keys = self.later(peeled)
        if all(fixed) and not any(self.wanted[self.loop.num_carry :]):
            ended = self.side_by_side(state, alpha, (xs, reads, keys), self.loop.length - peeled)
            if ended is not None:
                return [*state], ended, []
        arrays = [jnp.asarray(value.array) for value, use in zip(state, fixed, strict=True) if not use]
        carry, ys = lax.scan(body, (arrays, alpha.array), (xs, reads, keys), length=self.loop.length - peeled)
        if any(changed):
            return self.remaining(state, alpha, peeled, [use and not c for use, c in zip(fixed, changed, strict=True)])
        ended = _filled(carry[0], state, fixed)
        return (
            ended,
            Named(carry[1], alpha.dims),
            [Named(jnp.moveaxis(y, 0, len(d)), d) for y, d in zip(ys, y_dims, strict=True)],
        )

    def later(self, peeled: int) -> tuple[list[Any], Choices, Any]:
        """The inputs, given choices and keys of the steps that are left, by time."""
        order = slice(peeled, None)
        xs = [jnp.moveaxis(self.in_time(x), len(x.dims), 0)[order] for x in self.xs]
        reads = jax.tree.map(lambda v: self.forward(v)[order], self.given)
        return xs, reads, None if self.keys is None else self.keys[order]

    def side_by_side(self, state: list[Named], alpha: Named, inputs: Any, length: int) -> Named | None:
        """All further steps where the carried values are known: factors at once, then a loop over the tables alone.

        Factors that do not depend on the time (a transition matrix) are worked out once. None where a step changes
        what is carried.
        """
        if not jax.tree.leaves(inputs):
            return None
        found: list[Any] = []
        keyed = self.elimination.variables.keyed

        def factors_at(arrays: Any, reads: Choices, key: Any) -> list[Any]:
            xs = [Named(array, x.dims) for array, x in zip(arrays, self.xs, strict=True)]
            with keyed(key):
                after, factors, _ = self.terms(state, xs, reads)
            found[:] = [after, factors]
            return [factor.array for factor in factors]

        staged = jp.stage(factors_at, *jp.abstract(jax.tree.map(lambda x: x[0], inputs)))
        after, factors = found
        function, moving = jp.as_function(staged.code), outputs_that_move(staged.code.jaxpr)
        once = function(*jax.tree.leaves(jax.tree.map(lambda x: x[0], inputs)))
        timed = jax.vmap(function)(*jax.tree.leaves(inputs))
        renamed, _ = self.canonical(after, alpha._replace(dims=union(after), array=None))
        if not all(_same(old, new) for old, new in zip(state, renamed, strict=True)):
            return None
        form = [(factor.dims, factor.lanes) for factor in factors]

        def body(log_weights: Any, step: Any) -> Any:
            arrays, key = step
            parts = [a if m else b for a, b, m in zip(arrays, once, moving, strict=True)]
            named = [Named(array, *f) for array, f in zip(parts, form, strict=True)]
            with keyed(key):
                total = self.reduced(after, [*named, Named(log_weights, alpha.dims)])
            return self.canonical(after, total)[1].array, None

        rows = [array if m else None for array, m in zip(timed, moving, strict=True)]
        last, _ = lax.scan(body, alpha.array, (rows, inputs[2]), length=length)
        return alpha._replace(array=last)

    def inputs(self, index: int) -> list[Named]:
        """The scanned operands at one step."""
        return [Named(jnp.take(self.in_time(x), index, axis=len(x.dims)), x.dims) for x in self.xs]

    def reads(self, index: int) -> Choices:
        """The given choices at one step."""
        return jax.tree.map(lambda v: self.forward(v)[index], self.given)

    def in_time(self, x: Named) -> Any:
        """A scanned operand in the order of the steps."""
        return jnp.flip(x.array, axis=len(x.dims)) if self.loop.reverse else jnp.asarray(x.array)

    def forward(self, array: Any) -> Any:
        """Given choices in the order of the steps."""
        return jnp.flip(array, axis=0) if self.loop.reverse else jnp.asarray(array)

    def outputs(self, collected: list[list[Named]], rest: list[Named]) -> list[Named]:
        """The stacked outputs of all steps, those that are needed."""
        stacked = []
        for number, use in enumerate(self.wanted[self.loop.num_carry :]):
            if not use:
                stacked.append(EMPTY)
                continue
            pieces = [step[number] for step in collected]
            dims = union([*pieces, *rest[number : number + 1]])
            sizes = [self.elimination.sizes[dim] for dim in dims]
            parts = [jnp.expand_dims(_full(piece, dims, sizes), len(dims)) for piece in pieces]
            parts += [_full(piece, dims, sizes) for piece in rest[number : number + 1]]
            whole = jnp.concatenate(parts, axis=len(dims))
            stacked.append(Named(jnp.flip(whole, axis=len(dims)) if self.loop.reverse else whole, dims))
        return stacked

    def _growing(self) -> NotFiniteError:
        return NotFiniteError(
            f"The choices {sorted(addresses_in(self.loop.body.jaxpr))} in a scan cannot be summed by forward "
            "elimination: the carried values depend on ever more of them.\n"
            "Carry only the last choice (or the last few), not a running function of all of them; or keep their "
            "addresses."
        )
