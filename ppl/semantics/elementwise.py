"""Where the lanes of summed choices go: which axes of an operation's results hold the same elements as its operands.

    output_lanes(equation, lanes of the operands) -> lanes of the results, or `Mixed`

A lane is an axis along which entry i depends on no element but i of a plate of choices. Operations that keep elements
apart are listed in a table; anything else (a sum over the axis, a matrix product along it, a loop) is `Mixed`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ppl.semantics import jaxpr as jp
from ppl.semantics.named import Mixed, Variables

Axes = dict[int, int]
"""Axis to lane."""


def output_lanes(equation: Any, operands: Sequence[Axes], variables: Variables) -> list[Axes]:
    """The lanes of an equation's results.

    Args:
        equation: An equation without sites.
        operands: For each operand the lanes of its axes.
        variables: Where lanes that meet are made one.

    Raises:
        Mixed: the operation mixes elements, or is not known to keep them apart.
    """
    count = len(equation.outvars)
    if not any(operands):
        return [{}] * count
    name = equation.primitive.name
    if name in _WRAPPERS:
        return lanes_through(jp.inner_codes(equation)[0], operands, variables)
    rule = _RULES.get(name, _elementwise if name in _ELEMENTWISE else None)
    if rule is None:
        raise Mixed(())
    found = rule(equation, operands, variables)
    if len(set(found.values())) < len(found):
        raise Mixed(())
    return [found] * count


def lanes_through(code: jp.Code, operands: Sequence[Axes], variables: Variables) -> list[Axes]:
    """The lanes of the outputs of a code without sites."""
    jaxpr = code.jaxpr
    environment: dict[Any, Axes] = dict(zip(jaxpr.invars, operands, strict=True))

    def read(atom: Any) -> Axes:
        return {} if jp.is_literal(atom) else environment.get(atom, {})

    for equation in jaxpr.eqns:
        found = output_lanes(equation, [read(atom) for atom in equation.invars], variables)
        environment.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def joined(groups: Sequence[Axes], variables: Variables) -> Axes:
    """Lanes that meet along one axis are one."""
    result: Axes = {}
    for group in groups:
        for axis, lane in group.items():
            result[axis] = variables.same(result[axis], lane) if axis in result else variables.find(lane)
    return {axis: variables.find(lane) for axis, lane in result.items()}


def _shape(atom: Any) -> tuple[int, ...]:
    return tuple(atom.aval.shape)


def _moved(group: Axes, places: dict[int, int]) -> Axes:
    if any(axis not in places for axis in group):
        raise Mixed(())
    return {places[axis]: lane for axis, lane in group.items()}


def _elementwise(equation: Any, operands: Sequence[Axes], variables: Variables) -> Axes:
    del equation
    return joined(operands, variables)


def _broadcast(equation: Any, operands: Sequence[Axes], variables: Variables) -> Axes:
    del variables
    return _moved(operands[0], dict(enumerate(equation.params["broadcast_dimensions"])))


def _transpose(equation: Any, operands: Sequence[Axes], variables: Variables) -> Axes:
    del variables
    return _moved(operands[0], {old: new for new, old in enumerate(equation.params["permutation"])})


def _reduce(equation: Any, operands: Sequence[Axes], variables: Variables) -> Axes:
    axes = equation.params["axes"]
    kept = [axis for axis in range(len(_shape(equation.invars[0]))) if axis not in axes]
    return _moved(joined(operands, variables), {old: new for new, old in enumerate(kept)})


def _squeeze(equation: Any, operands: Sequence[Axes], variables: Variables) -> Axes:
    del variables
    gone = equation.params["dimensions"]
    kept = [axis for axis in range(len(_shape(equation.invars[0]))) if axis not in gone]
    return _moved(operands[0], {old: new for new, old in enumerate(kept)})


def _reshape(equation: Any, operands: Sequence[Axes], variables: Variables) -> Axes:
    """An axis stays where as many entries lie before it and as many after it as before."""
    del variables
    old, new = _shape(equation.invars[0]), _shape(equation.outvars[0])
    starts = {(_size(new[:axis]), new[axis]): axis for axis in range(len(new)) if new[axis] > 1}
    places = {axis: starts.get((_size(old[:axis]), old[axis])) for axis in operands[0]}
    return _moved(operands[0], {axis: place for axis, place in places.items() if place is not None})


def _size(shape: tuple[int, ...]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def _along(name: str) -> Callable[..., Axes]:
    """Operations that mix along some axes alone."""

    def rule(equation: Any, operands: Sequence[Axes], variables: Variables) -> Axes:
        mixed = equation.params[name]
        found = joined(operands, variables)
        if set(found) & set(mixed if isinstance(mixed, tuple | list) else (mixed,)):
            raise Mixed(())
        return found

    return rule


def _same_length(equation: Any, operands: Sequence[Axes], variables: Variables) -> Axes:
    """Slices and pads: axes that they leave whole."""
    found = joined(operands, variables)
    old, new = _shape(equation.invars[0]), _shape(equation.outvars[0])
    if any(old[axis] != new[axis] for axis in found):
        raise Mixed(())
    return found


def _gather(equation: Any, operands: Sequence[Axes], variables: Variables) -> Axes:
    """Rows by index: the axes of the indices stay apart, and so do axes of the table that are taken whole."""
    table, indices = operands[0], operands[1]
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    rank, shape = len(_shape(equation.outvars[0])), _shape(equation.invars[0])
    batch_axes = [axis for axis in range(rank) if axis not in numbers.offset_dims]
    by_index = dict(enumerate(batch_axes))
    dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    window = [axis for axis in range(len(shape)) if axis not in dropped]
    whole = {axis: out for axis, out in zip(window, numbers.offset_dims, strict=True) if sizes[axis] == shape[axis]}
    paired = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    places = whole | {axis: by_index[index] for axis, index in paired}
    return joined([_moved(table, places), _moved(indices, by_index)], variables)


def _dot(equation: Any, operands: Sequence[Axes], variables: Variables) -> Axes:
    contracting, batch = equation.params["dimension_numbers"]
    groups, start = [], len(batch[0])
    for side, group in enumerate(operands):
        rank = len(_shape(equation.invars[side]))
        free = [axis for axis in range(rank) if axis not in (*contracting[side], *batch[side])]
        places = {axis: place for place, axis in enumerate(batch[side])}
        places |= {axis: start + place for place, axis in enumerate(free)}
        start += len(free)
        groups.append(_moved(group, places))
    return joined(groups, variables)


_WRAPPERS = frozenset({"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2"})
_ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
    convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt
    igamma igammac integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not or
    polygamma pow random_gamma_grad reduce_precision regularized_incomplete_beta rem round rsqrt select_n
    sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta optimization_barrier
    """.split()  # noqa: SIM905
)
_RULES: dict[str, Callable[..., Axes]] = {
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _squeeze,
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin"),
        _reduce,
    ),
    **dict.fromkeys(("cumsum", "cumlogsumexp", "cumprod", "cummax", "cummin"), _along("axis")),
    "sort": _along("dimension"),
    "rev": _along("dimensions"),
    "concatenate": _along("dimension"),
    "slice": _same_length,
    "pad": _same_length,
    "gather": _gather,
    "dot_general": _dot,
}
