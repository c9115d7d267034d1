"""The paths of a sweep as a tree of ancestors: of all that was drawn, what has living descendants.

T + N log N nodes live at a time, up to a factor of about two, where full storage takes N T: Jacob, Murray, Rubenthaler,
*Path storage in the particle filter* (Statistics and Computing 2015), theorem 1. The tree is carried by the loop: an
array of slots that new leaves take; where too few are free, those of nodes without living descendants are collected.
The living are found by doubling: in round r, whoever is 2^r generations above a node that is known to live. (The paper
frees nodes one by one, which takes a sequential step for each.) Law: paths read off the tree are those of full storage,
bit for bit.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int32

from ppl.numerics.prefix import prefix_count
from ppl.semantics.keeping import Step
from ppl.semantics.language import deterministic


class Tree(NamedTuple):
    """The tree of one loop. A slot without a parent, or a lane without a slot, has the number of slots.

    Attributes:
        parent: The slot of each slot's parent.
        written: What was written at each slot's step, and masks.
        leaves: The slots of the last particles.
        origin: The places of their ancestors before the loop.
        used: The most nodes that were alive after a collection, and the leaves.
        overflow: Whether there were too few.
    """

    parent: Int32[Array, "slots"]
    written: Any
    leaves: Int32[Array, "particles"]
    origin: Int32[Array, "particles"]
    used: Int32[Array, ""]
    overflow: Bool[Array, ""]


class Growing(NamedTuple):
    """A tree in a loop, and its free slots: a stack of which the first `top` are there."""

    tree: Tree
    free: Int32[Array, "slots"]
    top: Int32[Array, ""]


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
        return Growing(tree, jnp.arange(slots, dtype=jnp.int32)[::-1], jnp.int32(slots))

    def step(self, state: Growing, step: Step) -> Growing:
        """Let every particle be a leaf; before that, collect what is dead where there are too few free slots."""
        tree = state.tree
        tree = tree._replace(leaves=tree.leaves[step.ancestors], origin=tree.origin[step.ancestors])
        few = state.top < len(step.ancestors)
        return _grown(lax.cond(few, _collected, lambda state: state, state._replace(tree=tree)), step)

    def end(self, state: Growing, log_weight: Any) -> None:
        """Record the tree."""
        del log_weight
        deterministic("tree", state.tree)
        deterministic("origin", state.tree.origin)


def _collected(state: Growing) -> Growing:
    """Free every slot that is not among the leaves or above one."""
    tree, slots, n = state.tree, state.free.shape[0], state.tree.leaves.shape[0]

    def unfinished(carried: Any) -> Any:
        alive, above, rounds = carried  # lines get twice as long a round; after an overflow they may bite their tails
        return jnp.any(alive & (above < slots)) & (rounds < slots.bit_length() + 1)

    def round_up(carried: Any) -> Any:
        alive, above, rounds = carried
        alive = alive.at[jnp.where(alive, above, slots)].set(True, mode="drop")
        return alive, above.at[above].get(mode="fill", fill_value=slots), rounds + 1

    alive = jnp.zeros(slots, bool).at[tree.leaves].set(True, mode="drop")
    alive, _, _ = lax.while_loop(unfinished, round_up, (alive, tree.parent, jnp.int32(0)))
    places = prefix_count((~alive).astype(jnp.int32)) - 1
    free = jnp.zeros_like(state.free).at[jnp.where(alive, slots, places)].set(jnp.arange(slots), mode="drop")
    top = places[-1] + 1
    used, overflow = jnp.maximum(tree.used, slots - top + n), tree.overflow | (top < n)
    return Growing(tree._replace(used=used, overflow=overflow), free, top)


def _grown(state: Growing, step: Step) -> Growing:
    """A new leaf for every particle, in a free slot."""
    tree, n = state.tree, step.ancestors.shape[0]
    new = state.free.at[state.top - 1 - jnp.arange(n, dtype=jnp.int32)].get(mode="clip")
    parent = tree.parent.at[new].set(tree.leaves)
    written = jax.tree.map(lambda xs, x: xs.at[new].set(x), tree.written, step.written)
    return state._replace(tree=tree._replace(parent=parent, written=written, leaves=new), top=state.top - n)


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
