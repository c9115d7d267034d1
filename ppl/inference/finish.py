"""From vectors that a sampler visited to a posterior's draws: constrained choices, recorded values, return values.

Discrete choices that were summed out are recovered here by exact conditional draws. Work goes in blocks of one size, so
that other numbers of draws need no compilation.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from ppl import native
from ppl.inference.data_checks import inspected_at
from ppl.inference.population import Given, one_particle
from ppl.semantics.jaxpr import Lane
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

RECOVERY = 0x7265636F
"""Sets the keys of recovered choices apart from those of the transitions."""
Keep = tuple[str, ...] | Callable[[dict[str, Any]], Any] | None


class Finished(NamedTuple):
    """Parts of a posterior, with leading axes (chain, draw).

    Attributes:
        draws: Choices by address.
        masks: Whether choices inside branches were made.
        deterministic: Recorded values by address.
        values: Return values; with a function to `keep`, that function's.
    """

    draws: dict[str, Any]
    masks: dict[str, Any]
    deterministic: dict[str, Any]
    values: Any


@lru_cache(maxsize=64)
def _compiled(backend: str, keep: Keep) -> Any:
    return jax.jit(partial(_finished_rows, keep), compiler_options=native.compiler_options(backend, quick=True))


def _finished_rows(keep: Keep, target: Any, key: PRNGKey, vectors: Any, ids: Any) -> Finished:
    def one(vector: Any, chain_and_draw: Any) -> Finished:
        own = jax.random.fold_in(jax.random.fold_in(key, chain_and_draw[0]), chain_and_draw[1])
        choices = target.choices(vector)
        choices = choices | target.recover(own, choices)
        runs = one_particle(target.program, own, {a: Given(x, None) for a, x in choices.items()})
        return _kept(keep, Finished(runs.choices, runs.masks, runs.deterministic, runs.value))

    return jax.vmap(one, axis_name=Lane(0))(vectors, ids)


def _kept(keep: Keep, whole: Finished) -> Finished:
    if keep is None:
        return whole
    if callable(keep):
        return Finished({}, {}, {}, keep(whole.draws))

    def some(part: dict[str, Any]) -> dict[str, Any]:
        return {a: x for a, x in part.items() if a in keep}

    return Finished(some(whole.draws), some(whole.masks), some(whole.deterministic), None)


def finish(target: Any, key: PRNGKey, positions: np.ndarray, first: Any, keep: Keep, block: int) -> Finished:
    """Turn visited vectors into parts of a posterior.

    Args:
        target: What was sampled: `program`, `choices(vector)`, `recover(key, choices)`.
        key: For the recovery of discrete choices; a draw's depends on its chain and number alone.
        positions: Shape (chains, draws, dim).
        first: The numbers of the first chain and the first draw.
        keep: What to keep.
        block: How many vectors are worked on at once.

    Returns:
        Host arrays.
    """
    chains, draws, dim = positions.shape
    ids = np.stack(np.meshgrid(first[0] + np.arange(chains), first[1] + np.arange(draws), indexing="ij"), axis=-1)
    rows, ids = positions.reshape(-1, dim), ids.reshape(-1, 2).astype(np.int32)
    key = jax.random.fold_in(key, RECOVERY)
    function, parts = _compiled(jax.default_backend(), keep), []
    for begin in range(0, max(len(rows), 1), block):
        some = np.minimum(np.arange(begin, begin + block), max(len(rows) - 1, 0))
        size = min(block, len(rows) - begin)
        done = function(target, key, _rows(rows, some, dim), _rows(ids, some, 2))
        parts.append(jax.tree.map(lambda x, n=size: np.asarray(x)[:n], done))
    return jax.tree.map(lambda *x: np.concatenate(x).reshape(chains, draws, *x[0].shape[1:]), *parts)


def _rows(array: np.ndarray, some: np.ndarray, width: int) -> np.ndarray:
    return array[some] if len(array) else np.zeros((len(some), width), array.dtype)


@lru_cache(maxsize=8)
def _compiled_check(backend: str) -> Any:
    def check(target: Any, program: Program, vectors: Any) -> Any:
        own = jax.random.key(0)

        def one(vector: Any) -> Any:
            choices = target.choices(vector)
            return choices | target.recover(own, choices)

        return inspected_at(program, jax.vmap(one)(vectors))

    return jax.jit(check, compiler_options=native.compiler_options(backend, quick=True))


def inspect_at(target: Any, vectors: np.ndarray) -> Any:
    """What is seen of the program's observations at some vectors."""
    return jax.tree.map(np.asarray, _compiled_check(jax.default_backend())(target, target.program, vectors))
