"""Rewritten products are the same function; what is not a small matrix-vector product stays as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ppl.semantics import jaxpr as jp
from ppl.semantics.small_dots import LIMIT, with_small_dots_as_sums

MATRIX = jnp.arange(12.0).reshape(4, 3) / 7.0 - 0.5
TALL = jnp.ones((LIMIT // 2 + 1, 2)) / 3.0


def loop(matrix, x):
    def step(carry, row):
        return carry + jnp.sum(matrix @ (x * row)), jnp.sum(x) * row

    return lax.scan(step, 0.25, jnp.arange(3.0))


CASES = {
    "matrix, vector": (lambda m, x: m @ x, (MATRIX, jnp.array([1.0, -2.0, 0.5]))),
    "vector, matrix": (lambda x, m: x @ m, (jnp.array([1.0, -2.0, 0.5, 3.0]), MATRIX)),
    "two vectors": (jnp.dot, (jnp.array([1.0, -2.0]), jnp.array([0.5, 4.0]))),
    "two contracted axes": (
        lambda a, b: jnp.tensordot(a, b, axes=((0, 2), (1, 0))),
        (jnp.arange(24.0).reshape(2, 4, 3), jnp.arange(6.0).reshape(3, 2) - 2.0),
    ),
    "inside a jitted function": (jax.jit(lambda m, x: jnp.sin(m @ x)), (MATRIX, jnp.array([1.0, -2.0, 0.5]))),
    "inside a loop": (loop, (MATRIX, jnp.array([1.0, -2.0, 0.5]))),
}


def count(function, args):
    def dots(code):
        inner = [c for e in code.jaxpr.eqns for c in jp.inner_codes(e)]
        return sum(e.primitive.name == "dot_general" for e in code.jaxpr.eqns) + sum(map(dots, inner))

    return dots(jp.stage(function, *args).code)


@pytest.mark.parametrize("name", CASES)
def test_the_same_function_and_gradient_without_products(name):
    function, args = CASES[name]
    rewritten = with_small_dots_as_sums(function)
    for a, b in zip(jax.tree.leaves(function(*args)), jax.tree.leaves(rewritten(*args)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    assert count(function, args) > 0
    assert count(rewritten, args) == 0

    def loss(*xs):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(function(*xs)))

    # With respect to the vector: the gradient of a matrix is an outer product, which stays.
    gradient = jax.grad(loss, argnums=0 if name == "vector, matrix" else 1)
    np.testing.assert_allclose(gradient(*args), with_small_dots_as_sums(gradient)(*args), rtol=2e-5, atol=1e-5)
    assert count(with_small_dots_as_sums(gradient), args) == 0


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (lambda m, x: m @ x, (TALL, jnp.array([1.0, 2.0]))),
        (lambda a, b: a @ b, (MATRIX, MATRIX.T)),
        (lambda m, x: m @ x, (jnp.arange(4).reshape(2, 2), jnp.arange(2))),
    ],
    ids=["large", "two matrices", "integers"],
)
def test_what_stays(function, args):
    rewritten = with_small_dots_as_sums(function)
    assert count(rewritten, args) == count(function, args) == 1
    np.testing.assert_array_equal(rewritten(*args), function(*args))
