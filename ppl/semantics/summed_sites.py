"""Sites in exact summation: choices become variables, densities become factors.

A choice that is not given is summed over its outcomes: its elements one by one (lanes of one variable) or, where the
program mixes them, all joint outcomes. A given value may be pushed to its support first, which must then not depend on
any summed choice.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppl.distributions.density import log_prob
from ppl.errors import EnumerationSizeError, MeasureError
from ppl.semantics.enumeration import finite_outcomes
from ppl.semantics.interpreter import sample_site
from ppl.semantics.named import Named, Variables, as_factor, lift, union
from ppl.semantics.protocol import Choices
from ppl.semantics.scoring import total_log_prob

JOINT_LIMIT = 4096
"""The most joint outcomes of one site with several elements that are summed as one variable."""
Step = tuple[list[Named], list[Named]]


def sum_sample(elimination: Any, equation: Any, operands: list[Named], given: Choices, wanted: list[bool]) -> Step:
    """A density at a value, or a new variable with the log probabilities of its outcomes."""
    del wanted
    address, signature = equation.params["site"].address, equation.params["signature"]
    count, read = signature.num_leaves, given.get(address)
    if len(operands) > count:
        return operands[count:], [_scored(elimination, equation, operands)]
    if read is None or isinstance(read, Tap):
        return _summed(elimination, equation, operands, read)
    values = [Named(leaf) for leaf in jax.tree.leaves(read)]
    if elimination.push is None:
        return values, [_scored(elimination, equation, [*operands, *values])]
    *values, weight = _pushed(elimination, equation, operands, values)
    return values, [_scored(elimination, equation, [*operands, *values]), as_factor(weight, elimination.variables)]


class Tap(NamedTuple):
    """Numbers to add to the log probabilities of a summed site, shape (*batch, K)."""

    array: Any


def _scored(elimination: Any, equation: Any, operands: list[Named]) -> Named:
    elimination.refuse_large(union(operands))
    if not any(operand.lanes for operand in operands):
        return lift(lambda *arrays: [_score(equation, arrays)], operands)[0]
    (terms,) = elimination.traced(lambda *arrays: [_terms(equation, arrays)], operands)
    return as_factor(terms, elimination.variables)


def _score(equation: Any, arrays: Sequence[Any]) -> Any:
    node = sample_site(equation, arrays)
    return total_log_prob(node.measure, node.observed)


def _terms(equation: Any, arrays: Sequence[Any]) -> Any:
    node = sample_site(equation, arrays)
    return log_prob(node.measure, node.observed)


def _pushed(elimination: Any, equation: Any, operands: list[Named], reads: list[Named]) -> list[Named]:
    """Given values taken to where the program sees them, which no summed choice may change."""
    push, count, tree = elimination.push, len(operands), equation.params["signature"].value_tree
    assert push is not None

    def pushed(*arrays: Any) -> list[Any]:
        value, weight = push(sample_site(equation, arrays[:count]), jax.tree.unflatten(tree, arrays[count:]))
        return [*jax.tree.leaves(value), weight]

    results = elimination.traced(pushed, [*operands, *reads])
    moving = union(results)
    if moving:
        site, names = equation.params["site"], elimination.variables.names
        raise MeasureError(
            f"The support of the choice {site.address!r} at {site.source} depends on the finite choices "
            f"{sorted({names[dim] for dim in moving})}, so that it has no bijection to R^n with them summed out.\n"
            "Fix: let its law alone depend on them (a wide support with a truncation as ppl.factor will not do: write "
            "a choice on a fixed support and transform it), or use ppl.MH()."
        )
    return results


def _summed(elimination: Any, equation: Any, operands: list[Named], tap: Tap | None) -> Step:
    site, variables = equation.params["site"], elimination.variables
    add = [] if tap is None else [Named(tap.array)]
    count = len(operands)

    def listed(*arrays: Any) -> list[Any]:
        whole = site.address in elimination.whole
        return _outcomes(equation, arrays[:count], arrays[count:], whole=whole)

    *values, log_probs = elimination.traced(listed, [*operands, *add])
    size, *batch = log_probs.array.shape[len(log_probs.dims) :]
    lanes = {axis: variables.fresh(length) for axis, length in enumerate(batch) if length > 1}
    for axis, lane in log_probs.lanes:
        if axis - 1 in lanes:
            lanes[axis - 1] = variables.same(lanes[axis - 1], lane)
    variable = variables.fresh(size, site.address, tuple(lanes.values()))
    own = tuple(lanes.items())
    outs = [Named(v.array, (*v.dims, variable), _without_first(v.lanes, own, variables)) for v in values]
    factor = Named(log_probs.array, (*log_probs.dims, variable), _without_first(log_probs.lanes, own, variables))
    return outs, [as_factor(factor, variables)]


def _without_first(lanes: Any, own: Any, variables: Variables) -> Any:
    """Lanes once the leading axis of outcomes is a variable, with those of the choice itself."""
    known = {axis - 1: lane for axis, lane in lanes}
    for axis, lane in own:
        known[axis] = variables.same(known[axis], lane) if axis in known else lane
    return tuple(sorted(known.items()))


def _outcomes(equation: Any, arrays: Sequence[Any], taps: Sequence[Any], *, whole: bool) -> list[Any]:
    """The leaves of a site's outcomes and their log probabilities, with a leading axis of outcomes."""
    node = sample_site(equation, arrays)
    found, avals = finite_outcomes(node), node.signature.avals
    size, batch = found.log_probs.shape[0], found.log_probs.shape[1:]
    scores = found.log_probs.astype(jnp.result_type(float))
    for tap in taps:
        scores = scores + jnp.moveaxis(tap, -1, 0)
    elements = math.prod(batch)
    leaves = jax.tree.leaves(found.values)
    if whole or elements == 0:
        return _joint_outcomes(node, leaves, scores)
    values = [leaf.reshape(size, *a.shape).astype(a.dtype) for leaf, a in zip(leaves, avals, strict=True)]
    return [*values, scores]


def _joint_outcomes(node: Any, leaves: Sequence[Any], scores: Any) -> list[Any]:
    """All joint outcomes of the elements of a site, as one variable."""
    size, batch = scores.shape[0], scores.shape[1:]
    elements = math.prod(batch)
    if elements > 1 and size**elements > JOINT_LIMIT:
        raise EnumerationSizeError(
            f"The choice {node.address!r} at {node.site.source} has {elements} elements of {size} outcomes each: "
            f"{size}^{elements} joint outcomes, and the program mixes its elements (a sum over them, a loop, an "
            "operation that is not known to keep them apart), so that they cannot be summed one by one.\n"
            f"Expected: at most {JOINT_LIMIT}. Write the elements as lanes, with what depends on them, in one "
            "ppl.vmap: lanes are summed one by one."
        )
    joint = np.arange(size**elements)
    digits = joint[:, None] // size ** np.arange(elements)[::-1] % size
    columns = np.arange(elements)
    total = jnp.sum(scores.reshape(size, elements)[digits, columns], axis=1)
    picked = [
        leaf.reshape(size, elements, *leaf.shape[1 + len(batch) :])[digits, columns]
        .reshape(len(joint), *aval.shape)
        .astype(aval.dtype)
        for leaf, aval in zip(leaves, node.signature.avals, strict=True)
    ]
    return [*picked, total]


def sum_factor(elimination: Any, equation: Any, operands: list[Named], given: Choices, wanted: list[bool]) -> Step:
    """A log weight, added up over all axes but lanes."""
    del equation, given, wanted
    return [], [as_factor(operands[0], elimination.variables)]
