"""The paths of a sweep as a tree of ancestors: of all that was drawn, what has living descendants.

T + N log N nodes live at a time, up to a factor of about two, where full storage takes N T: Jacob, Murray, Rubenthaler,
*Path storage in the particle filter* (Statistics and Computing 2015), theorem 1. The tree is carried by the loop: an
array of slots, those of particles without offspring freed, and their parents' where those have none left (algorithms 1
to 3 there). Law: paths read off the tree are those of full storage, bit for bit.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int32

from ppl.semantics.keeping import Step
from ppl.semantics.language import deterministic


class Tree(NamedTuple):
    """The tree of one loop. A slot without a parent, or a lane without a slot, has the number of slots.

    Attributes:
        parent: The slot of each slot's parent.
        written: What was written at each slot's step, and masks.
        leaves: The slots of the last particles.
        origin: The places of their ancestors before the loop.
        used: The most slots that were ever taken.
        overflow: Whether there were too few.
    """

    parent: Int32[Array, "slots"]
    written: Any
    leaves: Int32[Array, "particles"]
    origin: Int32[Array, "particles"]
    used: Int32[Array, ""]
    overflow: Bool[Array, ""]


class Growing(NamedTuple):
    """A tree in a loop: with the number of children of each slot, the free slots (a stack), and room for claims."""

    tree: Tree
    children: Int32[Array, "slots"]
    free: Int32[Array, "slots"]
    top: Int32[Array, ""]
    claims: Int32[Array, "slots"]


def capacity_of(n: int, length: int, factor: float = 3.0) -> int:
    """Slots for `n` particles and `length` steps: T + c N log N, and never more than full storage."""
    return min(n * (length + 1), length + n + math.ceil(factor * n * math.log(max(n, 2))))


@dataclass(frozen=True)
class TreeKeeper:
    """Keeps a tree of ancestors; records it as `tree`.

    Args:
        factor: The constant c of the capacity T + c N log N.
    """

    factor: float = 3.0

    def start(self, n: int, written: Any, length: int) -> Growing:
        """No node yet."""
        slots = capacity_of(n, length, self.factor)
        empty = jax.tree.map(lambda x: jnp.zeros((slots, *x.shape[1:]), x.dtype), written)
        nowhere, none = jnp.full(n, slots, jnp.int32), jnp.int32(0)
        tree = Tree(jnp.full(slots, slots, jnp.int32), empty, nowhere, jnp.arange(n, dtype=jnp.int32), none, none > 0)
        zeros = jnp.zeros(slots, jnp.int32)
        return Growing(tree, zeros, jnp.arange(slots, dtype=jnp.int32)[::-1], jnp.int32(slots), zeros)

    def step(self, state: Growing, step: Step) -> Growing:
        """Prune what has no offspring, then let every particle be a leaf."""
        return _grown(_pruned(state, step.ancestors), step)

    def end(self, state: Growing, log_weight: Any) -> None:
        """Record the tree."""
        del log_weight
        deterministic("tree", state.tree)
        deterministic("origin", state.tree.origin)


def _pruned(state: Growing, ancestors: Array) -> Growing:
    """Free the slots of leaves without offspring, and of their ancestors without any other descendant."""
    slots = state.free.shape[0]
    lanes = jnp.arange(ancestors.shape[0], dtype=jnp.int32)
    offspring = jnp.zeros_like(lanes).at[ancestors].add(1)
    children = state.children.at[state.tree.leaves].add(offspring, mode="drop")
    dead = jnp.where(offspring == 0, state.tree.leaves, slots)

    def generation(carried: Any) -> Any:
        """Those that die are of one generation; of siblings that die at once, one tells the parent's fate."""
        dead, children, free, top, claims = carried
        dies = dead < slots
        places = jnp.where(dies, top + jnp.cumsum(dies, dtype=jnp.int32) - 1, slots)
        parent = jnp.where(dies, state.tree.parent.at[dead].get(mode="clip"), slots)
        children = children.at[parent].add(-1, mode="drop")
        claims = claims.at[parent].set(lanes, mode="drop")
        found = children.at[parent].get(mode="clip"), claims.at[parent].get(mode="clip")
        last = (parent < slots) & (found[0] == 0) & (found[1] == lanes)
        free = free.at[places].set(dead, mode="drop")
        return jnp.where(last, parent, slots), children, free, top + jnp.sum(dies, dtype=jnp.int32), claims

    start = dead, children, state.free, state.top, state.claims
    _, children, free, top, claims = lax.while_loop(lambda carried: jnp.any(carried[0] < slots), generation, start)
    return state._replace(children=children, free=free, top=top, claims=claims)


def _grown(state: Growing, step: Step) -> Growing:
    """A new leaf for every particle, in a free slot."""
    tree, n, slots = state.tree, step.ancestors.shape[0], state.free.shape[0]
    new = state.free.at[state.top - 1 - jnp.arange(n, dtype=jnp.int32)].get(mode="clip")
    grown = Tree(
        tree.parent.at[new].set(tree.leaves[step.ancestors]),
        jax.tree.map(lambda xs, x: xs.at[new].set(x), tree.written, step.written),
        new,
        tree.origin[step.ancestors],
        jnp.maximum(tree.used, slots - state.top + n),
        tree.overflow | (state.top < n),
    )
    return state._replace(tree=grown, children=state.children.at[new].set(0), top=jnp.maximum(state.top - n, 0))


@partial(jax.jit, static_argnames=("length", "reverse"))
def tree_paths(
    tree: Tree, particles: Int32[Array, "chosen"], *, length: int, reverse: bool
) -> tuple[Any, Int32[Array, "chosen"]]:
    """The paths of some of the last particles, particles first, and where they came from before the loop.

    Args:
        tree: The tree of a loop.
        particles: Places among the last particles.
        length: Steps of the loop.
        reverse: Whether it ran from the last step to the first.
    """

    def back(slots: Any, _: Any) -> Any:
        return tree.parent[slots], jax.tree.map(lambda xs: xs[slots], tree.written)

    _, found = lax.scan(back, tree.leaves[particles], None, length=length, reverse=not reverse)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), found), tree.origin[particles]
