"""Exact enumeration: run a finite program on the whole product of its supports.

Each latent site has a known number of outcomes; every row of the product is one run, and all rows run as one `vmap`.
The rows of branches not taken are counted once (their index is zero). Law: the result is the program's measure.
"""

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl.distributions.finite import outcomes, pick
from ppl.errors import EnumerationSizeError, NotFiniteError
from ppl.semantics import choices as ch
from ppl.semantics.finite import FiniteMeasure
from ppl.semantics.handlers import Density
from ppl.semantics.interpreter import run
from ppl.semantics.measures import addresses
from ppl.semantics.protocol import Handler, Outcome, Position, SampleSite
from ppl.semantics.scoring import total_log_prob
from ppl.semantics.table import CodeKey

DEFAULT_LIMIT = 2**20
"""The most rows that `enumerate` makes without being asked."""


def finite_outcomes(node: SampleSite) -> Any:
    """The outcomes of a site, or a `NotFiniteError` that names it."""
    found = outcomes(node.measure)
    if found is None:
        name, where = node.signature.name, addresses(node.address, node.signature.value_tree)
        raise NotFiniteError(
            f"The choice {', '.join(map(repr, where))} at {node.site.source} is drawn from {name}, which has no finite "
            "support of a size known while tracing.\nExpected: Bernoulli, Categorical, or another finite distribution "
            "(with a Python int for its size). Condition on the choice, or use a sampling method."
        )
    return found


class Sizes(Handler):
    """Find the number of outcomes of each site: writes an array of shape `(*batch, K)` (only its shape matters)."""

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Take the first outcome."""
        del read, where
        if node.observed is not None:
            return Outcome(node.observed, ())
        found = finite_outcomes(node)
        value, _ = pick(found, jnp.zeros(found.log_probs.shape[1:], int))
        return Outcome(_reshaped(value, node), (), jnp.moveaxis(found.log_probs, 0, -1))


class Enumerate(Density):
    """Take the outcome that the read index names; sum the log densities. Writes the value."""

    scores_given = False

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """The outcome by index, or the observed value."""
        del where
        if node.observed is not None:
            return Outcome(node.observed, total_log_prob(node.measure, node.observed))
        value, log_probs = pick(finite_outcomes(node), read)
        value = _reshaped(value, node)
        return Outcome(value, jnp.sum(log_probs).astype(jnp.result_type(float)), value)


def _reshaped(value: Any, node: SampleSite) -> Any:
    leaves = [
        jnp.reshape(leaf, aval.shape).astype(aval.dtype)
        for leaf, aval in zip(jax.tree.leaves(value), node.signature.avals, strict=True)
    ]
    return jax.tree.unflatten(node.signature.value_tree, leaves)


def support_sizes(program: Any) -> dict[str, tuple[int, ...]]:
    """For each latent site, the shape `(*axes, K)`: K outcomes for every element."""
    return dict(_support_sizes(CodeKey(program.staged.code)))


@lru_cache(maxsize=2048)
def _support_sizes(key: CodeKey) -> dict[str, tuple[int, ...]]:
    """Once a structure: the numbers of outcomes depend on the code alone."""
    arguments = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in key.code.jaxpr.invars]
    shapes = jax.eval_shape(lambda args: run(key.code, args, Sizes(), {}).writes, arguments)
    return {address: shape.shape for address, shape in shapes.items()}


def row_count(sizes: dict[str, tuple[int, ...]]) -> int:
    """The number of rows of the product of all supports."""
    return math.prod(shape[-1] ** math.prod(shape[:-1]) for shape in sizes.values())


def enumerate_program(program: Any, limit: int = DEFAULT_LIMIT) -> FiniteMeasure:
    """The exact measure of a finite program.

    Args:
        program: A `Program` all of whose latent choices have finite support.
        limit: The most rows to make.

    Raises:
        NotFiniteError: a choice has no finite support.
        EnumerationSizeError: the product of the supports has more than `limit` rows; says which choices make it large.
    """
    staged = program.staged
    value, choices, masks, log_weights, distinct = _enumerate(program, index_rows(program, limit))
    flat = ch.flatten(choices, staged, ("latent",))
    return FiniteMeasure(jnp.where(distinct, log_weights, -jnp.inf), value, flat, ch.spread(masks, staged))


def support_rows(program: Any, limit: int = DEFAULT_LIMIT) -> tuple[dict[str, Any], Any]:
    """All combinations of choices, by address, one a row; and which rows are the first of their kind."""
    _, choices, _, _, distinct = _enumerate(program, index_rows(program, limit))
    return ch.flatten(choices, program.staged, ("latent",)), distinct


def index_rows(program: Any, limit: int) -> dict[str, np.ndarray]:
    """The outcome index of every element of every site, one row a combination."""
    staged = program.staged
    ch.refuse_unbounded(staged, "exact measure")
    sizes = support_sizes(program)
    rows = row_count(sizes)
    if rows > limit:
        raise _too_large(rows, sizes, staged, limit)
    return _indices(sizes, rows)


def _too_large(rows: int, sizes: dict[str, tuple[int, ...]], staged: Any, limit: int) -> EnumerationSizeError:
    worst = sorted(sizes, key=lambda a: -row_count({a: sizes[a]}))[:3]
    parts = [f"{a!r} ({staged.table[a].site.source}): {sizes[a][-1]}^{math.prod(sizes[a][:-1])}" for a in worst]
    return EnumerationSizeError(
        f"Exact enumeration would make {float(rows):.3g} rows; the limit is {limit}. The largest supports: "
        f"{'; '.join(parts)}.\n"
        "Raise the limit, or sum choices out where they are independent: program.marginal(addresses, "
        "method=ppl.Exact())."
    )


def _indices(sizes: dict[str, tuple[int, ...]], rows: int) -> dict[str, np.ndarray]:
    """The index of every element of every site in each row (mixed radix)."""
    row, stride, indices = np.arange(rows), 1, {}
    for address, (*axes, size) in sizes.items():
        digits = np.empty((rows, math.prod(axes)), np.int32)
        for element in range(digits.shape[1]):
            digits[:, element] = (row // stride) % size
            stride *= size
        indices[address] = digits.reshape(rows, *axes)
    return indices


@jax.jit
def _enumerate(program: Any, indices: dict[str, Any]) -> Any:
    def one(index: dict[str, Any]) -> Any:
        value, result = program.run(Enumerate(), index)
        twice = jnp.zeros((), bool)
        for address, mask in result.masks.items():
            if address in index:
                made = jnp.reshape(mask, (*mask.shape, *(1,) * (index[address].ndim - mask.ndim)))
                twice = twice | jnp.any(~made & (index[address] != 0))
        return value, result.writes, result.masks, result.total, ~twice

    rows = len(next(iter(indices.values()))) if indices else 1
    return jax.vmap(one, axis_size=rows)(indices)
