"""Exact summation of finite choices along the structure of the program.

    log_marginal(program, given) = log of the sum, over all choices not given, of the joint density.

Each summed choice becomes a variable with an axis of its own; densities are factors over variables. Structure keeps it
cheap: `ppl.vmap` is summed lane by lane (K a lane, not K^n), a chain of choices in a `scan` by forward elimination
(linear in its length), straight-line code by variable elimination. Reference: Kschischang, Frey, Loeliger, *Factor
graphs and the sum-product algorithm* (2001). Everything is differentiable in the given choices and the program's
arguments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl.errors import EnumerationSizeError, UnboundedError
from ppl.semantics import jaxpr as jp
from ppl.semantics.chain import Chain, refuse_escape
from ppl.semantics.constants import evaluated
from ppl.semantics.elementwise import output_lanes
from ppl.semantics.liveness import needed_variables
from ppl.semantics.named import EMPTY, Mixed, Named, Variables, lift, product, refuse_lanes, sum_out, union
from ppl.semantics.protocol import Choices
from ppl.semantics.summed_sites import Step, sum_factor, sum_sample
from ppl.semantics.table import addresses_in

TABLE_LIMIT = 2**20
"""The most joint outcomes of several sites that are kept at once."""

Push = Callable[[Any, Any], tuple[Any, Any]]
"""A site and the value that is given for it to the value that the program sees, and a log weight."""


@dataclass
class Elimination:
    """The variables made so far, and how sites are met.

    Attributes:
        variables: The summed choices.
        whole: Addresses whose elements are summed as one variable, because the program mixes them.
        push: What to do with given values; by default they are taken as they are.
    """

    variables: Variables = field(default_factory=Variables)
    whole: frozenset[str] = frozenset()
    push: Push | None = None

    @property
    def sizes(self) -> dict[int, int]:
        """The number of outcomes of each variable."""
        return self.variables.sizes

    def fresh(self, size: int) -> int:
        """A new variable with `size` outcomes."""
        return self.variables.fresh(size)

    def run(
        self, code: jp.Code, args: Sequence[Named], given: Choices, outs: Sequence[bool]
    ) -> tuple[list[Named], list[Named]]:
        """Interpret a code; returns its outputs (those not needed are empty) and its factors."""
        jaxpr, needed = code.jaxpr, needed_variables(code, outs)
        consts = [Named(const) for const in code.consts]
        environment = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
        factors: list[Named] = []
        start = self.mark()
        for position, equation in enumerate(jaxpr.eqns):
            wanted = [var in needed for var in equation.outvars]
            operands = [self._read(environment, atom) for atom in equation.invars]
            if equation.primitive.name == "scan" and jp.has_sites(equation):
                alive = self._dims_after(jaxpr, position, environment, needed)
                chain = Chain(self, equation, operands, given, wanted)
                factors = chain.absorb(factors, {dim for dim in chain.entering if dim > start} - alive)
                results, new = chain.run()
            else:
                results, new = self._equation(equation, operands, given, wanted)
            factors += new
            results = [r if use else _blank(v) for v, r, use in zip(equation.outvars, results, wanted, strict=True)]
            environment.update(zip(equation.outvars, results, strict=True))
        return [self._read(environment, atom) for atom in jaxpr.outvars], factors

    def _read(self, environment: dict[Any, Named], atom: Any) -> Named:
        return Named(atom.val) if jp.is_literal(atom) else environment[atom]

    def _equation(
        self, equation: Any, operands: list[Named], given: Choices, wanted: list[bool]
    ) -> tuple[list[Named], list[Named]]:
        if jp.has_sites(equation):
            rule = _RULES.get(equation.primitive.name, _inlined)
            return rule(self, equation, operands, given, wanted)
        if not any(wanted):
            return [EMPTY] * len(wanted), []
        if equation.primitive.name in ("jit", "pjit"):
            return _inlined(self, equation, operands, given, wanted)
        self.refuse_large(union(operands))
        results = evaluated(equation, operands)
        if any(operand.lanes for operand in operands):
            found = self._lanes_after(equation, operands)
            results = [r._replace(lanes=tuple(sorted(o.items()))) for r, o in zip(results, found, strict=True)]
        return results, []

    def _lanes_after(self, equation: Any, operands: list[Named]) -> list[dict[int, int]]:
        try:
            return output_lanes(equation, [dict(operand.lanes) for operand in operands], self.variables)
        except Mixed:
            raise Mixed([dim for operand in operands if operand.lanes for dim in operand.dims]) from None

    def refuse_large(self, dims: Sequence[int]) -> None:
        """Raise where the joint outcomes of some variables are too many."""
        count = self.variables.outcomes(dims)
        if count > TABLE_LIMIT:
            names = ", ".join(dict.fromkeys(self.variables.names[dim] for dim in dims if self.variables.names[dim]))
            raise EnumerationSizeError(
                f"The choices {names} meet in one value: {count:,} joint outcomes.\n"
                f"Expected: at most {TABLE_LIMIT:,}. Write choices that do not depend on each other, with what depends "
                "on them, in one ppl.vmap, and chains as a scan that carries the last choice; or use ppl.MH()."
            )

    def traced(self, function: Any, operands: list[Named]) -> list[Named]:
        """Apply a function operation by operation, so that each result depends only on the variables that it must.

        Concrete scalars stay concrete (the number of outcomes of a binomial is one).
        """
        fixed = [not operand.dims and not isinstance(operand.array, jax.Array) for operand in operands]

        def partial(*dynamic: Any) -> Any:
            rest = iter(dynamic)
            return function(*(o.array if f else next(rest) for o, f in zip(operands, fixed, strict=True)))

        loose = [operand for operand, f in zip(operands, fixed, strict=True) if not f]
        avals = [jax.ShapeDtypeStruct(jnp.shape(o.array)[len(o.dims) :], jnp.result_type(o.array)) for o in loose]
        staged = jp.stage(partial, *avals)
        return self.run(staged.code, loose, {}, [True] * len(staged.out_avals))[0]

    def _dims_after(self, jaxpr: Any, position: int, environment: dict[Any, Named], needed: set[Any]) -> set[int]:
        """The variables that values used after an equation depend on."""
        later = [atom for equation in jaxpr.eqns[position + 1 :] for atom in equation.invars]
        atoms = [atom for atom in (*later, *jaxpr.outvars) if not jp.is_literal(atom) and atom in needed]
        return {dim for atom in atoms if atom in environment for dim in environment[atom].dims}

    def locals_since(self, start: int, factors: Sequence[Named]) -> set[int]:
        """The variables among the factors that were made after `start`."""
        return {dim for dim in union(factors) if dim >= start}

    def mark(self) -> int:
        """A number such that later variables are at least as large."""
        return self.fresh(1)


def _blank(variable: Any) -> Named:
    """Stands for a value that nobody needs, in its shape: loops and lanes still take it apart."""
    aval = variable.aval
    return EMPTY if jnp.issubdtype(aval.dtype, jax.dtypes.extended) else Named(jnp.zeros(aval.shape, aval.dtype))


def log_marginal(program: Any, given: Choices) -> Any:
    """Log of the joint density summed over every latent choice that is not given (by site), in nats.

    Raises:
        NotFiniteError: a choice that is not given is not finite, or leaves the `ppl.vmap` that holds it.
        EnumerationSizeError: a site has too many joint outcomes.
    """
    return summed(program, given)


def summed(program: Any, given: Choices, push: Push | None = None, key: Any = None) -> Any:
    """`log_marginal` for authors of methods: given values may be pushed, outcomes tapped, and sums drawn.

    Args:
        program: The program.
        given: Values by site; a `Tap` for a summed site.
        push: What to do with given values.
        key: Makes the derivative of every sum the indicator of a draw, with this randomness.

    Elements of a site are summed one by one; where that turns out to be wrong, because the program mixes them, as one.
    """
    staged, whole = program.staged, frozenset()
    args = [Named(leaf) for leaf in program.dynamic]
    while True:
        elimination = Elimination(Variables(key=key), whole, push)
        try:
            _, factors = elimination.run(staged.code, args, given, [False] * len(staged.code.jaxpr.outvars))
            return product(sum_out(factors, list(union(factors)), elimination.variables)).array
        except Mixed as mixed:
            found = {elimination.variables.names[v] for v in mixed.variables if elimination.variables.lanes[v]}
            if not found - whole:
                raise
            whole |= found


# --- sites and control flow ------------------------------------------------------------------------------------------


def _deterministic(
    elimination: Elimination, equation: Any, operands: list[Named], given: Choices, wanted: list[bool]
) -> Step:
    del elimination, equation, operands, given, wanted
    return [], []


def _inlined(
    elimination: Elimination, equation: Any, operands: list[Named], given: Choices, wanted: list[bool]
) -> Step:
    return elimination.run(jp.inner_codes(equation)[0], operands, given, wanted)


def _while(elimination: Elimination, equation: Any, operands: list[Named], given: Choices, wanted: list[bool]) -> Step:
    del elimination, operands, given, wanted
    inside = sorted(address for code in jp.inner_codes(equation) for address in addresses_in(code.jaxpr))
    raise UnboundedError(
        f"The sites {inside} lie inside a while_loop; they cannot be summed out. Use a scan of fixed length."
    )


def _lanes(elimination: Elimination, equation: Any, operands: list[Named], given: Choices, wanted: list[bool]) -> Step:
    """Sum each lane's own choices inside the lane; what is left are factors over outer variables, added up."""
    params = equation.params
    refuse_lanes(operands)
    start, shapes, variables = elimination.mark(), [], elimination.variables

    def lane(arrays: list[Any], inside: Choices, key: Any) -> tuple[list[Any], list[Any]]:
        args = [Named(array, operand.dims) for array, operand in zip(arrays, operands, strict=True)]
        with variables.keyed(key):
            outs, factors = elimination.run(params["body"], args, inside, wanted)
            outs = [out if use else EMPTY for out, use in zip(outs, wanted, strict=True)]
            refuse_escape(outs, lambda dim: dim >= start, params["body"], "ppl.vmap")
            factors = sum_out(factors, list(elimination.locals_since(start, factors)), variables)
        shapes.append(([out.dims for out in outs], [factor.dims for factor in factors]))
        return [out.array for out in outs], [factor.array for factor in factors]

    axes = [len(o.dims) if mapped else None for o, mapped in zip(operands, params["batched"], strict=True)]
    arrays = [operand.array for operand in operands]
    reads = {a: v for a, v in given.items() if a in addresses_in(params["body"].jaxpr)}
    size, keys = params["size"], variables.split(params["size"])
    outs, factors = jax.vmap(lane, in_axes=(axes, 0, 0), axis_size=size)(arrays, reads, keys)
    out_dims, factor_dims = shapes[-1]
    moved = [Named(jnp.moveaxis(out, 0, len(dims)), dims) for out, dims in zip(outs, out_dims, strict=True)]
    return moved, [Named(_over_lanes(f), dims) for f, dims in zip(factors, factor_dims, strict=True)]


def _over_lanes(factor: Any) -> Any:
    """The product of a factor over lanes (log domain)."""
    return jnp.sum(factor, axis=0)


def _cond(elimination: Elimination, equation: Any, operands: list[Named], given: Choices, wanted: list[bool]) -> Step:
    """Evaluate every branch: its factors count where it is taken, its own choices have mass one where it is not."""
    refuse_lanes(operands)
    index, *args = operands
    results, factors = [], []
    for number, code in enumerate(jp.inner_codes(equation)):
        taken = lift(lambda i, n=number: [i == n], [index])[0]
        start = elimination.mark()
        outs, new = elimination.run(code, args, given, wanted)
        refuse_lanes([out for out, use in zip(outs, wanted, strict=True) if use])
        masked = [
            lift(lambda t, f: [jnp.where(t, f, 0.0)], [taken, factor])[0]._replace(lanes=factor.lanes) for factor in new
        ]
        results.append([out if use else EMPTY for out, use in zip(outs, wanted, strict=True)])
        own = {dim for dim in (*union(new), *union(results[-1])) if dim >= start}
        masked += [_idle(elimination, taken, variable) for variable in own]
        escaped = {dim for dim in union(results[-1]) if dim >= start}
        factors += sum_out(masked, sorted(own - escaped), elimination.variables)
    count = len(results)
    outs = [
        lift(
            lambda i, *xs: [lax.select_n(jnp.clip(i, 0, count - 1), *xs)] if count > 1 else [xs[0]],
            [index, *alternatives],
        )[0]
        if use
        else EMPTY
        for use, alternatives in zip(wanted, map(list, zip(*results, strict=True)), strict=True)
    ]
    return outs, factors


def _idle(elimination: Elimination, taken: Named, variable: int) -> Named:
    """Mass one on the first outcome where the branch is not taken; no constraint where it is."""
    variables = elimination.variables
    lanes = sorted(variables.lanes_of([variable]))
    shape = [variables.sizes[lane] for lane in lanes]
    first = (jnp.arange(variables.sizes[variable]) == 0).reshape(-1, *(1,) * len(lanes))
    first = Named(jnp.broadcast_to(first, (len(first), *shape)), (variable,))
    idle = lift(lambda t, f: [jnp.where(t | f, 0.0, -jnp.inf).astype(jnp.result_type(float))], [taken, first])[0]
    return idle._replace(lanes=tuple(enumerate(lanes)))


_RULES = {
    "sample": sum_sample,
    "factor": sum_factor,
    "deterministic": _deterministic,
    "lanes": _lanes,
    "cond": _cond,
    "while": _while,
}
