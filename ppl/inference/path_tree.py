"""Paths of particles read off the trees of ancestors that a sweep has kept: `PathTree`."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from ppl.inference.ancestor_tree import Tree, tree_paths
from ppl.semantics import choices as ch
from ppl.semantics.program import Program
from ppl.semantics.stages import Loop, plan_of


@dataclass(frozen=True, eq=False)
class PathTree:
    """The trees of a run, by the number of the loop's stage.

    Args:
        program: The program that was swept.
        trees: The trees.
    """

    program: Program
    trees: dict[int, Tree]

    def paths(self, particles: Int[np.ndarray, "chosen"] | None = None) -> dict[str, Any]:
        """Choices and recorded values of the program's loops along the paths of some of the last particles.

        Args:
            particles: Their places; by default all (which takes the memory of full storage).

        Returns:
            By address, arrays (chosen, steps, ...).
        """
        return self._read(particles)[0]

    def masks(self, particles: Int[np.ndarray, "chosen"] | None = None) -> dict[str, Any]:
        """For choices inside branches, whether they were made: arrays (chosen, steps, ...)."""
        return self._read(particles)[1]

    @property
    def nodes(self) -> int:
        """The most nodes that were alive at once, of all loops."""
        return sum(int(tree.used) for tree in self.trees.values())

    @property
    def bytes(self) -> int:
        """What the trees take, in bytes, free slots included."""
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self.trees))

    def _read(self, particles: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        staged, written, masks = self.program.staged, {}, {}
        size = len(next(iter(self.trees.values())).leaves) if self.trees else 0
        line = jnp.arange(size, dtype=jnp.int32) if particles is None else jnp.asarray(particles, jnp.int32)
        for number, stage in reversed(list(enumerate(plan_of(self.program).stages))):
            if isinstance(stage, Loop):
                (found, made), line = tree_paths(
                    self.trees[number], line, length=stage.length, reverse=stage.loop.reverse
                )
                written.update(found)
                masks.update(made)
        return ch.flatten(written, staged, ("latent", "deterministic")), ch.spread(masks, staged)
