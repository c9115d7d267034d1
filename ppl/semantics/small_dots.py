"""Small matrix-vector products as sums of products, so that XLA:CPU compiles the loop around them natively.

A loop with a `dot_general` in it is not compiled into one native function (see `ppl.native`): each of its operations is
dispatched, which costs more than a small product does. Law: the function is the same up to the order of summation.
Large products, products of matrices, and those inside branches and unbounded loops stay as they are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl.semantics import jaxpr as jp

LIMIT = 2048
"""The most elements of a matrix whose products are rewritten."""


def with_small_dots_as_sums(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its small matrix-vector products written out.

    Args:
        function: Of arrays (pytrees), without sites.

    Examples:
        >>> import jax.numpy as jnp
        >>> f = with_small_dots_as_sums(lambda a, x: a @ x)
        >>> f(jnp.eye(2), jnp.array([3.0, 4.0])).tolist()
        [3.0, 4.0]
    """

    def rewritten(*args: Any) -> Any:
        staged = jp.stage(function, *args)
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(args)]
        return jax.tree.unflatten(staged.out_tree, _run(staged.code, leaves))

    return rewritten


def _run(code: jp.Code, args: Sequence[Any]) -> list[Any]:
    jaxpr = code.jaxpr
    environment = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*code.consts, *args), strict=True))
    for equation in jaxpr.eqns:
        operands = [jp.read(environment, atom) for atom in equation.invars]
        rule = _RULES.get(equation.primitive.name, jp.evaluate)
        environment.update(zip(equation.outvars, rule(equation, operands), strict=True))
    return [jp.read(environment, atom) for atom in jaxpr.outvars]


def _dot(equation: Any, operands: Sequence[Any]) -> list[Any]:
    (left, right), (left_batch, _) = equation.params["dimension_numbers"]
    matrix, vector, axes, order = operands[0], operands[1], left, right
    if vector.ndim > matrix.ndim:
        matrix, vector, axes, order = vector, matrix, right, left
    whole = len(order) == vector.ndim  # nothing of the vector is left after the contraction
    floats = all(jnp.issubdtype(x.dtype, jnp.floating) for x in operands)
    if left_batch or not whole or not floats or not 0 < matrix.size <= LIMIT:
        return jp.evaluate(equation, operands)
    spread = lax.broadcast_in_dim(vector, matrix.shape, tuple(axes[order.index(i)] for i in range(vector.ndim)))
    (aval,) = (variable.aval for variable in equation.outvars)
    return [jnp.sum(matrix * spread, axis=tuple(axes)).astype(aval.dtype)]


def _inlined(equation: Any, operands: Sequence[Any]) -> list[Any]:
    if not _has_dots(equation):
        return jp.evaluate(equation, operands)
    return _run(jp.inner_codes(equation)[0], operands)


def _scan(equation: Any, operands: Sequence[Any]) -> list[Any]:
    if not _has_dots(equation):
        return jp.evaluate(equation, operands)
    loop = jp.loop_of(equation)
    consts = operands[: loop.num_consts]
    init = operands[loop.num_consts : loop.num_consts + loop.num_carry]

    def step(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        outs = _run(loop.body, (*consts, *carry, *xs))
        return outs[: loop.num_carry], outs[loop.num_carry :]

    rest = list(operands[loop.num_consts + loop.num_carry :])
    carry, ys = lax.scan(step, list(init), rest, length=loop.length, reverse=loop.reverse, unroll=loop.unroll)
    return [*carry, *ys]


def _has_dots(equation: Any) -> bool:
    inner = [inner for code in jp.inner_codes(equation) for inner in code.jaxpr.eqns]
    return any(e.primitive.name == "dot_general" or _has_dots(e) for e in inner)


_RULES: dict[str, Callable[[Any, Sequence[Any]], list[Any]]] = {
    "dot_general": _dot,
    "jit": _inlined,
    "pjit": _inlined,
    "closed_call": _inlined,
    "scan": _scan,
}
