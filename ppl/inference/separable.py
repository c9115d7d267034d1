"""Densities that are sums over the elements of a choice: found by walking the jaxpr, computed element by element.

    log density(x) = constant + sum over elements i of t_i(x_i)

Then the elements are independent given everything else. Every intermediate array is followed with the *index* of the
one element that each of its entries depends on: operations that move data move the index along, elementwise ones need
equal indices, sums over several elements stay sums until the end. An operation outside these rules raises
`NotSeparable`, so that a result is a proof. What is followed is up to an `Algebra`: the value itself, or the
coefficients of functions such as x, x^2, log x.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ppl.inference.entries import (
    DATA,
    ELEMENTWISE,
    INLINED,
    LINEAR,
    MOVING,
    NOTHING,
    REDUCING,
    Algebra,
    NotSeparable,
    Parts,
    Sum,
    Term,
    behind,
    constant_along,
    merged,
    not_separable,
    widened,
)
from ppl.semantics import jaxpr as jp


def separate(
    function: Callable[..., Any],
    value: Any,
    args: tuple[Any, ...],
    algebra: Algebra,
    batch: tuple[int, ...] | None = None,
) -> Parts:
    """The parts of t_i(x_i), one for each element of a choice, of a function that is a sum over the elements.

    Args:
        function: `function(value, *args)` gives a scalar.
        value: The choice, an array.
        args: Other arguments, any pytrees; constant.
        algebra: What to follow.
        batch: The shape of the elements, a prefix of the choice's shape; by default every number is an element.

    Raises:
        NotSeparable: the sum could not be proved.
    """
    code = jp.stage(function, value, *args).code
    batch = np.shape(value) if batch is None else batch
    numbers = np.arange(np.prod(batch, dtype=int), dtype=np.int32)
    index = np.broadcast_to(numbers.reshape((*batch, *(1,) * (np.ndim(value) - len(batch)))), np.shape(value))
    first = Sum((Term(algebra.start(value), index, sign=1),))
    (total,) = _run(code, [first, *jax.tree.leaves(args)], algebra)
    terms = total.terms if isinstance(total, Sum) else ()
    return _gathered(terms, batch)


def _gathered(terms: Sequence[Term], shape: tuple[int, ...]) -> Parts:
    """Add all entries up by the element that they depend on."""
    parts: Parts = {}
    for term in terms:
        for name, array in term.parts.items():
            added = _by_element(array, term.index, shape)
            parts[name] = parts[name] + added if name in parts else added
    return parts


def _by_element(array: Any, index: Any, shape: tuple[int, ...]) -> Any:
    array = jnp.broadcast_to(array, np.shape(index))
    if isinstance(index, np.ndarray):
        index = np.maximum(index, 0)
        same = tuple(a for a in range(index.ndim) if constant_along(index, (a,)))
        array, index = jnp.sum(array, axis=same), index.max(axis=same)
        if index.size == np.prod(shape, dtype=int) and np.array_equal(index.reshape(-1), np.arange(index.size)):
            return array.reshape(shape)
    size = int(np.prod(shape, dtype=int))
    return jax.ops.segment_sum(array.reshape(-1), jnp.reshape(index, (-1,)), size).reshape(shape)


# --- the walk --------------------------------------------------------------------------------------------------------


def _run(code: jp.Code, args: Sequence[Any], algebra: Algebra) -> list[Any]:
    jaxpr = code.jaxpr
    environment = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*code.consts, *args), strict=True))
    for equation in jaxpr.eqns:
        operands = [jp.read(environment, atom) for atom in equation.invars]
        environment.update(zip(equation.outvars, _equation(equation, operands, algebra), strict=True))
    return [jp.read(environment, atom) for atom in jaxpr.outvars]


def _equation(equation: Any, operands: list[Any], algebra: Algebra) -> list[Any]:
    name = equation.primitive.name
    if not any(isinstance(operand, Sum) for operand in operands):
        return _constant(equation, operands)
    if name in INLINED:
        return _run(jp.inner_codes(equation)[0], operands, algebra)
    if name in ("add", "sub", "add_any"):
        return [_add(equation, operands, algebra)]
    if name == "reduce_sum":
        return [_reduce_sum(equation, operands, algebra)]
    if name == "gather" and isinstance(operands[1], Sum):
        return [_lookup(equation, operands)]
    rule = _moved if name in MOVING else _reduced if name in REDUCING else _scaled if name in LINEAR else _elementwise
    return [rule(equation, operands, algebra)]


def _constant(equation: Any, operands: list[Any]) -> list[Any]:
    """An equation without the choice; computed at once where its operands are known while tracing."""
    if any(isinstance(operand, Tracer) for operand in operands):
        return jp.evaluate(equation, operands)
    with jax.ensure_compile_time_eval():
        return jp.evaluate(equation, [jnp.asarray(operand) for operand in operands])


def _plain(operand: Any, equation: Any) -> Any:
    """A single term without axes yet to be summed; constants as they are."""
    if not isinstance(operand, Sum):
        return operand
    if len(operand.terms) != 1:
        raise not_separable(equation, "acts on a sum of several terms")
    return operand.terms[0]


def _refuse_sums(plain: list[Any], equation: Any) -> None:
    """Raise where an operand is a sum that is yet to be made."""
    for operand, atom in zip(plain, equation.invars, strict=True):
        if isinstance(operand, Term) and np.ndim(operand.index) > len(atom.aval.shape):
            raise not_separable(equation, "acts on a sum over several elements")


def _joined(equation: Any, operands: list[Any]) -> list[Any]:
    """The operands of an elementwise operation: plain terms of one index, and constants."""
    shape = np.broadcast_shapes(*(atom.aval.shape for atom in equation.invars))
    plain = [_plain(operand, equation) for operand in operands]
    if any(
        isinstance(t, Term) and np.ndim(t.index) > len(a.aval.shape)
        for t, a in zip(plain, equation.invars, strict=True)
    ):
        raise not_separable(equation, "acts on a sum over several elements")
    wide = [widened(t, np.ndim(t.index), shape) if isinstance(t, Term) else t for t in plain]
    terms = [term for term in wide if isinstance(term, Term)]
    index = terms[0].index
    for term in terms[1:]:
        index = merged(index, term.index, equation)
    return [term._replace(index=index) if isinstance(term, Term) else term for term in wide]


def _elementwise(equation: Any, operands: list[Any], algebra: Algebra) -> Sum:
    if equation.primitive.name not in ELEMENTWISE:
        raise not_separable(equation, "is not known to keep elements apart")
    return Sum((algebra.elementwise(equation, _joined(equation, operands)),))


def _scaled(equation: Any, operands: list[Any], algebra: Algebra) -> Sum:
    """Negation, conversion, product or quotient with a constant: term by term, behind the array's own axes."""
    tainted = [isinstance(operand, Sum) for operand in operands]
    if sum(tainted) != 1 or not tainted[0] and equation.primitive.name == "div":
        return _elementwise(equation, operands, algebra)

    which, shape = tainted.index(True), equation.outvars[0].aval.shape
    rank = len(equation.invars[which].aval.shape)

    def scaled(term: Term) -> Term:
        wide = widened(term, rank, shape)
        around = [wide if flag else behind(o, shape, wide) for o, flag in zip(operands, tainted, strict=True)]
        return algebra.elementwise(equation, around)

    return Sum(tuple(scaled(term) for term in operands[which].terms))


def _add(equation: Any, operands: list[Any], algebra: Algebra) -> Sum:
    """Sums are joined; where the result is one plain term it stays one."""
    try:
        return Sum((algebra.elementwise(equation, _joined(equation, operands)),))
    except NotSeparable:
        shape = equation.outvars[0].aval.shape
        left, right = (
            tuple(widened(t, len(a.aval.shape), shape) for t in o.terms) if isinstance(o, Sum) else ()
            for o, a in zip(operands, equation.invars, strict=True)
        )
        if equation.primitive.name == "sub":
            right = tuple(Term({k: -x for k, x in t.parts.items()}, t.index) for t in right)
        return Sum((*left, *right))


def _reduce_sum(equation: Any, operands: list[Any], algebra: Algebra) -> Sum:
    """A sum stays one term where it runs over entries of one element; else its axes go behind, to be summed later."""
    del algebra
    axes = tuple(equation.params["axes"])
    return Sum(tuple(_summed(term, axes) for term in operands[0].terms))


def _summed(term: Term, axes: tuple[int, ...]) -> Term:
    index = term.index
    if isinstance(index, np.ndarray) and constant_along(index, axes):
        parts = {k: jnp.sum(jnp.broadcast_to(x, index.shape), axis=axes) for k, x in term.parts.items()}
        return Term(parts, np.asarray(index.max(axis=axes)))
    order = (*(a for a in range(np.ndim(index)) if a not in axes), *axes)
    shape = np.shape(index)
    parts = {k: jnp.transpose(jnp.broadcast_to(x, shape), order) for k, x in term.parts.items()}
    return Term(parts, index.transpose(order))


def _reduced(equation: Any, operands: list[Any], algebra: Algebra) -> Sum:
    """Any other reduction, over entries that depend on one element."""
    term, axes = _plain(operands[0], equation), tuple(equation.params["axes"])
    _joined(equation, operands)
    if not isinstance(term.index, np.ndarray) or not constant_along(term.index, axes):
        raise not_separable(equation, "runs over several elements")
    return Sum((algebra.elementwise(equation, [term])._replace(index=np.asarray(term.index.max(axis=axes))),))


def _moved(equation: Any, operands: list[Any], algebra: Algebra) -> Sum:
    """An operation that moves data moves the parts and the index alike."""
    plain = [_plain(operand, equation) for operand in operands]
    terms = [term for term in plain if isinstance(term, Term)]
    data = DATA.get(equation.primitive.name, lambda operands: range(1))(operands)
    if any(isinstance(term, Term) and i not in data for i, term in enumerate(plain)):
        raise not_separable(equation, "moves data to places that depend on the choice")
    if any(
        np.ndim(t.index) != len(a.aval.shape)
        for t, a in zip(plain, equation.invars, strict=True)
        if isinstance(t, Term)
    ):
        raise not_separable(equation, "acts on a sum over several elements")
    parts = [
        (t.parts if isinstance(t, Term) else algebra.constant(t)) if i in data else {} for i, t in enumerate(plain)
    ]
    names = dict.fromkeys(name for part in parts for name in part)

    def moved(name: str) -> Any:
        pairs = enumerate(zip(plain, equation.invars, strict=True))
        filled = [_filled(parts[i].get(name), atom) if i in data else place for i, (place, atom) in pairs]
        return jp.evaluate(equation, filled)[0]

    whole = [_index_of(t, a) if i in data else t for i, (t, a) in enumerate(zip(plain, equation.invars, strict=True))]
    (index,) = _constant(equation, whole)
    sign = terms[0].sign if len(terms) == len(data) and len({t.sign for t in terms}) == 1 else 0
    return Sum((Term({name: moved(name) for name in names}, _concrete(index), sign),))


def _filled(part: Any, atom: Any) -> Any:
    return jnp.broadcast_to(jnp.asarray(0 if part is None else part, atom.aval.dtype), atom.aval.shape)


def _index_of(operand: Any, atom: Any) -> Any:
    return operand.index if isinstance(operand, Term) else np.full(atom.aval.shape, NOTHING, np.int32)


def _concrete(index: Any) -> Any:
    return index if isinstance(index, Tracer) else np.asarray(index)


def _lookup(equation: Any, operands: list[Any]) -> Sum:
    """A constant table read at places that depend on the choice: each entry depends on the element that chose it."""
    table, places = operands[0], _plain(operands[1], equation)
    if isinstance(table, Sum) or "value" not in places.parts or not isinstance(places.index, np.ndarray):
        raise not_separable(equation, "reads a table that depends on the choice at a place that does too")
    if not constant_along(places.index, (places.index.ndim - 1,)):
        raise not_separable(equation, "reads a table at places that several elements choose")
    (value,) = jp.evaluate(equation, [table, places.parts["value"]])
    offsets = equation.params["dimension_numbers"].offset_dims
    shape = [1 if a in offsets else size for a, size in enumerate(value.shape)]
    index = np.broadcast_to(places.index.max(axis=-1).reshape(shape), value.shape)
    return Sum((Term({"value": value}, index),))


class Values:
    """Follows the value itself, through any elementwise operation: t_i at the given x_i (up to constants)."""

    def start(self, value: Any) -> Parts:
        """The value."""
        return {"value": value}

    def constant(self, value: Any) -> Parts:
        """The constant."""
        return {"value": value}

    def elementwise(self, equation: Any, operands: Sequence[Any]) -> Term:
        """Evaluate the operation."""
        terms = [operand for operand in operands if isinstance(operand, Term)]
        plain = [operand.parts["value"] if isinstance(operand, Term) else operand for operand in operands]
        (value,) = jp.evaluate(equation, plain)
        return Term({"value": value}, terms[0].index)
