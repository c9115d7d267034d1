"""Checkpoints of fits: the state and the history in one file, whole or not at all.

Law: a fit that is killed at any time and started again with the same arguments gives the same numbers, bit for bit, as
one that was not; `steps`, `stop` and `chunk` may differ. A file of another fit (other objective, optimiser, data, start
or key) is refused, and nothing is overwritten.
"""

import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ppl.inference.checkpoint import LastingFile, digest, lasting
from ppl.vi.fit_steps import Problem, State, begun, stepped

KIND = "fit"


class FitCheckpoint:
    """Saves a fit to a file, and finds it there again.

    Args:
        path: The file.
        problem: What is fitted.
        start: The parameters before the first step, with a leading axis of restarts.
    """

    def __init__(self, path: str | os.PathLike[str], problem: Problem, start: Any) -> None:
        self.file = LastingFile(path, KIND, identity(problem, start))

    def __call__(self, state: State, values: tuple[np.ndarray, ...], *, lazily: bool = False) -> None:
        """Save; lazily: only where the last save is long enough ago."""

        def contents() -> tuple[dict[str, Any], dict[str, Any]]:
            leaves = {f"state/{i}": x for i, x in enumerate(jax.tree.leaves(state))}
            history = np.concatenate(values, axis=1) if values else np.zeros((len(state.done), 0), np.float32)
            return {**leaves, "history": history}, {}

        self.file.save(contents, lazily=lazily)

    def load(self, state: State) -> tuple[State, tuple[np.ndarray, ...]]:
        """The saved state and history; the given state and no history where there is no file.

        Raises:
            FileFormatError: the file is damaged, or of another fit.
        """
        found = self.file.saved("fit", "the same objective, optimiser, parameters, data and key")
        if found is None:
            return state, ()
        arrays, (leaves, tree) = found[0], jax.tree.flatten(state)
        saved = [jnp.asarray(arrays[f"state/{i}"]) for i in range(len(leaves))]
        return jax.tree.unflatten(tree, saved), (np.asarray(arrays["history"]),)


def identity(problem: Problem, start: Any) -> dict[str, str]:
    """What tells fits apart, part by part: the code of a step (objective and optimiser), start, data, key."""
    state = begun(problem, start)
    dynamic, static = eqx.partition((problem, state), eqx.is_array)

    def step(dynamic: Any) -> Any:
        problem, state = eqx.combine(dynamic, static)
        return stepped(problem, state, problem.part(0), jnp.int32(0))

    code = jax.make_jaxpr(step)(dynamic)
    constants = (np.asarray(x).tobytes() for x in code.consts)
    return {
        "objective or optimiser": digest(lasting(str(code.jaxpr)), *constants),
        "parameters": _digest_of((start, problem.fixed)),
        "data": _digest_of((problem.args, problem.bound)),
        "key": digest(np.asarray(jax.random.key_data(problem.keys)).tobytes()),
    }


def _digest_of(tree: Any) -> str:
    arrays = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    return digest(*(np.asarray(_plain(x)).tobytes() for x in arrays))


def _plain(array: Any) -> Any:
    return jax.random.key_data(array) if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else array
