"""Exact summation of finite choices along the structure of the program.

    log_marginal(program, given) = log of the sum, over all choices not given, of the joint density.

Each summed choice becomes a variable with an axis of its own; densities are factors over variables. Structure keeps it
cheap: `ppl.vmap` is summed lane by lane (K a lane, not K^n), a chain of choices in a `scan` by forward elimination
(linear in its length), straight-line code by variable elimination. Reference: Kschischang, Frey, Loeliger, *Factor
graphs and the sum-product algorithm* (2001). Everything is differentiable in the given choices and the program's
arguments.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl.errors import EnumerationSizeError, UnboundedError
from ppl.semantics import jaxpr as jp
from ppl.semantics.chain import Chain, refuse_escape
from ppl.semantics.enumeration import finite_outcomes
from ppl.semantics.interpreter import sample_site
from ppl.semantics.liveness import needed_variables
from ppl.semantics.named import EMPTY, Named, lift, product, sum_out, union
from ppl.semantics.protocol import Choices
from ppl.semantics.scoring import total_log_prob
from ppl.semantics.table import addresses_in

JOINT_LIMIT = 4096
"""The most joint outcomes of one site with several elements that are summed as one variable."""


@dataclass
class Elimination:
    """The variables made so far, and the given choices of the code at hand."""

    sizes: dict[int, int] = field(default_factory=dict)
    counter: Any = field(default_factory=itertools.count)

    def fresh(self, size: int) -> int:
        """A new variable with `size` outcomes."""
        variable = next(self.counter)
        self.sizes[variable] = size
        return variable

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
        return lift(lambda *arrays: jp.evaluate(equation, arrays), operands), []

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


Step = tuple[list[Named], list[Named]]


def log_marginal(program: Any, given: Choices) -> Any:
    """Log of the joint density summed over every latent choice that is not given (by site), in nats.

    Raises:
        NotFiniteError: a choice that is not given is not finite, or leaves the `ppl.vmap` that holds it.
        EnumerationSizeError: a site has too many joint outcomes.
    """
    staged, elimination = program.staged, Elimination()
    args = [Named(leaf) for leaf in program.dynamic]
    _, factors = elimination.run(staged.code, args, given, [False] * len(staged.code.jaxpr.outvars))
    return product(sum_out(factors, list(union(factors)), elimination.sizes)).array


# --- sites -----------------------------------------------------------------------------------------------------------


def _sample(elimination: Elimination, equation: Any, operands: list[Named], given: Choices, wanted: list[bool]) -> Step:
    del wanted
    address, signature = equation.params["site"].address, equation.params["signature"]
    count = signature.num_leaves
    if len(operands) > count or address in given:
        values = operands[count:] or [Named(leaf) for leaf in jax.tree.leaves(given[address])]
        return values, lift(lambda *arrays: [_score(equation, arrays)], [*operands[:count], *values])
    return _summed(elimination, equation, operands)


def _score(equation: Any, arrays: Sequence[Any]) -> Any:
    node = sample_site(equation, arrays)
    return total_log_prob(node.measure, node.observed)


def _summed(elimination: Elimination, equation: Any, operands: list[Named]) -> Step:
    *values, log_probs = elimination.traced(lambda *arrays: _joint_outcomes(equation, arrays), operands)
    variable = elimination.fresh(log_probs.array.shape[len(log_probs.dims)])
    return [Named(v.array, (*v.dims, variable)) for v in values], [Named(log_probs.array, (*log_probs.dims, variable))]


def _joint_outcomes(equation: Any, arrays: Sequence[Any]) -> list[Any]:
    """The leaves of a site's joint outcomes and their log probabilities, with a leading axis of outcomes."""
    node = sample_site(equation, arrays)
    found, avals = finite_outcomes(node), node.signature.avals
    size, batch = found.log_probs.shape[0], found.log_probs.shape[1:]
    elements = math.prod(batch)
    if elements > 1 and size**elements > JOINT_LIMIT:
        raise EnumerationSizeError(
            f"The choice {node.address!r} at {node.site.source} has {elements} elements of {size} outcomes each: "
            f"{size}^{elements} joint outcomes.\n"
            f"Expected: at most {JOINT_LIMIT}. Write the elements as lanes, with what depends on them, in one "
            "ppl.vmap: lanes are summed one by one."
        )
    joint = np.arange(size**elements)
    digits = joint[:, None] // size ** np.arange(elements)[::-1] % size
    leaves, log_probs = jax.tree.leaves(found.values), found.log_probs.reshape(size, elements)
    columns = jnp.arange(elements)
    scores = jnp.sum(log_probs[digits, columns], axis=1).astype(jnp.result_type(float))
    picked = [
        leaf.reshape(size, elements, *leaf.shape[1 + len(batch) :])[digits, columns]
        .reshape(len(joint), *aval.shape)
        .astype(aval.dtype)
        for leaf, aval in zip(leaves, avals, strict=True)
    ]
    return [*picked, scores]


def _factor(elimination: Elimination, equation: Any, operands: list[Named], given: Choices, wanted: list[bool]) -> Step:
    del elimination, equation, given, wanted
    return [], lift(lambda array: [jnp.sum(array).astype(jnp.result_type(float))], operands)


def _deterministic(
    elimination: Elimination, equation: Any, operands: list[Named], given: Choices, wanted: list[bool]
) -> Step:
    del elimination, equation, operands, given, wanted
    return [], []


# --- control flow ----------------------------------------------------------------------------------------------------


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
    start, shapes = elimination.mark(), []

    def lane(arrays: list[Any], inside: Choices) -> tuple[list[Any], list[Any]]:
        args = [Named(array, operand.dims) for array, operand in zip(arrays, operands, strict=True)]
        outs, factors = elimination.run(params["body"], args, inside, wanted)
        outs = [out if use else EMPTY for out, use in zip(outs, wanted, strict=True)]
        refuse_escape(outs, lambda dim: dim >= start, params["body"], "ppl.vmap")
        factors = sum_out(factors, list(elimination.locals_since(start, factors)), elimination.sizes)
        shapes.append(([out.dims for out in outs], [factor.dims for factor in factors]))
        return [out.array for out in outs], [factor.array for factor in factors]

    axes = [len(o.dims) if mapped else None for o, mapped in zip(operands, params["batched"], strict=True)]
    arrays = [operand.array for operand in operands]
    reads = {a: v for a, v in given.items() if a in addresses_in(params["body"].jaxpr)}
    outs, factors = jax.vmap(lane, in_axes=(axes, 0), axis_size=params["size"])(arrays, reads)
    out_dims, factor_dims = shapes[-1]
    moved = [Named(jnp.moveaxis(out, 0, len(dims)), dims) for out, dims in zip(outs, out_dims, strict=True)]
    return moved, [Named(_over_lanes(f), dims) for f, dims in zip(factors, factor_dims, strict=True)]


def _over_lanes(factor: Any) -> Any:
    """The product of a factor over lanes (log domain)."""
    return jnp.sum(factor, axis=0)


def _cond(elimination: Elimination, equation: Any, operands: list[Named], given: Choices, wanted: list[bool]) -> Step:
    """Evaluate every branch: its factors count where it is taken, its own choices have mass one where it is not."""
    index, *args = operands
    results, factors = [], []
    for number, code in enumerate(jp.inner_codes(equation)):
        taken = lift(lambda i, n=number: [i == n], [index])[0]
        start = elimination.mark()
        outs, new = elimination.run(code, args, given, wanted)
        masked = [lift(lambda t, f: [jnp.where(t, f, 0.0)], [taken, factor])[0] for factor in new]
        results.append([out if use else EMPTY for out, use in zip(outs, wanted, strict=True)])
        own = {dim for dim in (*union(new), *union(results[-1])) if dim >= start}
        masked += [_idle(elimination, taken, variable) for variable in own]
        escaped = {dim for dim in union(results[-1]) if dim >= start}
        factors += sum_out(masked, sorted(own - escaped), elimination.sizes)
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
    first = Named(jnp.arange(elimination.sizes[variable]) == 0, (variable,))
    return lift(lambda t, f: [jnp.where(t | f, 0.0, -jnp.inf).astype(jnp.result_type(float))], [taken, first])[0]


_RULES = {
    "sample": _sample,
    "factor": _factor,
    "deterministic": _deterministic,
    "lanes": _lanes,
    "cond": _cond,
    "while": _while,
}
