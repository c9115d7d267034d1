"""Minibatches: the data of each step, cut from arrays with a leading data axis, in epochs that are shuffled anew.

Law: every datum is in a given step's batch with the same chance, batch_size / n, so that an estimate from a batch,
scaled to the data, is unbiased for all of them. The batches depend on the key and the number of the step alone. What is
left over of an epoch is not used in it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ppl.errors import ShapeError
from ppl.inference.method import positive
from ppl.typing import PRNGKey

TAG = 0x62617463


class Batches(NamedTuple):
    """How many data there are, and how many go into a step."""

    total: int
    size: int

    @property
    def in_epoch(self) -> int:
        """Steps in an epoch."""
        return self.total // self.size

    def order(self, key: PRNGKey, step: Any) -> Int[Array, "total"]:
        """The order of the data in the epoch of a step."""
        return jax.random.permutation(
            jax.random.fold_in(jax.random.fold_in(key, TAG), step // self.in_epoch), self.total
        )

    def following(self, order: Int[Array, "total"], key: PRNGKey, step: Any) -> Int[Array, "total"]:
        """The order for a step, from that of the step before: another one where an epoch begins."""
        return jax.lax.cond(step % self.in_epoch == 0, lambda: self.order(key, step), lambda: order)

    def cut(self, args: Any, order: Int[Array, "total"], step: Any) -> Any:
        """A step's part of the arguments."""
        chosen = jax.lax.dynamic_slice_in_dim(order, step % self.in_epoch * self.size, self.size)
        return jax.tree.map(lambda x: x[chosen] if is_data(x) else x, args)


def is_data(leaf: Any) -> bool:
    """Whether an argument is cut: arrays with an axis are, numbers and other objects are not."""
    return isinstance(leaf, jax.Array) and jnp.ndim(leaf) > 0


def batches_of(args: Any, size: int | None) -> Batches | None:
    """The batches of some arguments; None where they are used whole.

    Raises:
        ShapeError: the arrays do not share their first axis, or it is shorter than a batch.
    """
    if size is None:
        return None
    positive("batch_size", size)
    found = jax.tree_util.tree_flatten_with_path(args)[0]
    lengths = {jax.tree_util.keystr(path): jnp.shape(x)[0] for path, x in found if is_data(x)}
    if len(set(lengths.values())) != 1 or size > next(iter(lengths.values())):
        told = ", ".join(f"args{name} has {length}" for name, length in lengths.items()) or "no array at all"
        raise ShapeError(
            f"batch_size={size} cuts every array in args along its first axis, the axis of the data; got: {told}.\n"
            f"Expected: arrays with one first axis, of at least {size} data.\n"
            "Fix: give what is not to be cut to the objective itself (a closure, Objective.bound), or as a scalar."
        )
    return Batches(next(iter(lengths.values())), size)
