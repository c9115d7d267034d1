"""The moves of tempered SMC by name, and any kernel as moves: it is run as it is, on the tempered program.

Law: at each inverse temperature the kernel leaves q^(1 - beta) p^beta invariant, since its maker is given that
program. It is not tuned.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppl.inference.combinators import captured
from ppl.inference.kernels import KernelMaker, State
from ppl.inference.tempering_path import TemperingPath, vector_densities, vector_target
from ppl.inference.tuned_moves import HamiltonianMoves, Moved, Moves, RandomWalkMoves
from ppl.semantics.lanes import vmap
from ppl.semantics.program import Program


@dataclass(frozen=True)
class KernelMoves:
    """Any kernel of the tempered program; it is not tuned."""

    maker: KernelMaker

    def enter(self, path: TemperingPath, state: State) -> State:
        """The state itself."""
        del path
        return state

    def log_ratio(self, path: TemperingPath, places: State) -> Float[Array, "particles"]:
        """Scored anew."""
        size = len(jax.tree.leaves(places)[0]) if jax.tree.leaves(places) else 1
        return jax.vmap(lambda state: path.log_ratio(state.choices), axis_size=size)(places)

    def untuned(self, path: TemperingPath) -> tuple[()]:
        """Nothing."""
        del path
        return ()

    def tuned(self, places: State, weights: Float[Array, "particles"], tuning: tuple[()]) -> tuple[()]:
        """Nothing."""
        del places, weights
        return tuning

    def arrive(self, path: TemperingPath, places: State, beta: Any) -> State:
        """As they are."""
        del path, beta
        return places

    def move(self, path: TemperingPath, places: State, beta: Any, tuning: tuple[()]) -> Moved:
        """One step of the kernel for every particle; the acceptance is the share that it says it accepted, or moved."""
        kernel = self.maker(path.at(beta))

        def one(state: State) -> tuple[State, Any]:
            new, records = captured("kernel", kernel(state))
            accepted = [jnp.mean(x) for a, x in records.items() if a.split("/")[-1] == "accepted"]
            return new, (sum(accepted) / len(accepted)) if accepted else _differ(state, new)

        moved, accepted = vmap(one)(places)
        return Moved(moved, jnp.mean(accepted), tuning)

    def coordinates(self, places: State, tuning: tuple[()]) -> Float[Array, "particles coordinates"]:
        """All choices as numbers."""
        del tuning
        parts = [x.reshape(x.shape[0], -1).astype(float) for x in jax.tree.leaves(places.choices)]
        return jnp.concatenate(parts, axis=1) if parts else jnp.zeros((1, 0))

    def size(self, tuning: tuple[()]) -> tuple[Any, Any]:
        """Not known."""
        del tuning
        return jnp.full((), jnp.nan), jnp.full((), jnp.nan)

    def choices(self, path: TemperingPath, places: State) -> State:
        """The state."""
        del path
        return places


def _differ(old: State, new: State) -> Any:
    flags = [jnp.any(a != b) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)]
    return jnp.any(jnp.stack(flags)).astype(float) if flags else jnp.zeros(())


KERNELS: dict[str, Moves] = {"random_walk": RandomWalkMoves(), "hmc": HamiltonianMoves()}
"""Moves by the names of `ppl.TemperedSMC(kernel=...)`."""

WALKABLE = 20
"""The most dimensions in which `"auto"` takes a random walk where there are gradients."""


def moves_of(kernel: str | KernelMaker) -> Moves:
    """The moves that a setting asks for.

    Raises:
        ValueError: it is neither a known name nor a maker of kernels.
    """
    if isinstance(kernel, str) and kernel in KERNELS:
        return KERNELS[kernel]
    if not callable(kernel):
        raise ValueError(  # noqa: TRY004 - a name that is not known, too
            f"kernel is {kernel!r}.\nExpected: one of {', '.join(map(repr, KERNELS))}, or a maker of kernels such as "
            "ppl.inference.trace_mh_kernel."
        )
    return KernelMoves(kernel)


def automatic(path: TemperingPath) -> str:
    """The name of the moves for a path: a random walk in few dimensions, Hamiltonian ones above, if it has gradients.

    A random walk needs moves in proportion to the dimension, and a covariance from the particles; up to `WALKABLE`
    dimensions it is the cheaper one (EEG's logistic regression, 15 dimensions: 6 times).
    """
    dim = vector_target(path).dim
    if dim <= WALKABLE:
        return "random_walk"
    try:
        jax.eval_shape(jax.grad(lambda x: vector_densities(path, x).at(0.5)), jnp.zeros(dim))
    except (ValueError, TypeError, NotImplementedError):  # no reverse mode, for one through a while_loop
        return "random_walk"
    return "hmc"


def captured_move(moves: Moves, path: TemperingPath, places: Any, beta: Any, tuning: Any) -> Program:
    """One move of a population, as a program."""
    return Program.of(_move, (path, places, beta, tuning), {"moves": moves})


def _move(path: TemperingPath, places: Any, beta: Any, tuning: Any, moves: Moves) -> Moved:
    return moves.move(path, places, beta, tuning)
