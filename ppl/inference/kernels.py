"""Markov kernels as programs, and where chains of them start. `ppl.inference.kernel_sampler` runs them.

A kernel is a function `State -> Program`: the program's value is the next state, its coin flips are sites, and it may
record `accepted` and `log_density` with `ppl.deterministic`. So the exact enumerator can run a kernel (see
`reachability`). Law: a kernel of a program leaves the program's measure invariant. This file knows no kernel.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ppl.errors import DegenerateWeightsError
from ppl.inference.data_checks import density_table
from ppl.inference.population import population
from ppl.semantics.jaxpr import Lane
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

ATTEMPTS = 100
"""How many prior draws each chain tries for a start of positive density."""


class State(NamedTuple):
    """Where a chain stands: choices by address, and for those inside branches whether they are made.

    Values of choices that are not made are zero, so that equal states have equal arrays. `extra` is what a kernel of an
    extended space carries besides (PMMH: its estimate of the evidence); other kernels neither know nor keep it.
    """

    choices: dict[str, Any]
    masks: dict[str, Any]
    extra: Any = ()


Kernel = Callable[[State], Program]
"""From a state to the program of the next one."""

KernelMaker = Callable[[Program], Kernel]
"""From a program to a kernel that leaves its measure invariant."""


def initial_states(program: Program, key: PRNGKey, chains: int) -> State:
    """A start for each chain: the first of 100 prior draws that has a finite log density.

    Args:
        program: The program.
        key: One key for all chains.
        chains: The number of chains, the leading axis of the result.

    Raises:
        DegenerateWeightsError: with the log density by site, where a chain found no start.
    """
    states, missing = _prior_states(program, jax.random.fold_in(key, 0), chains)
    for attempt in range(1, ATTEMPTS):
        if not missing.any():
            return states
        others, still = _prior_states(program, jax.random.fold_in(key, attempt), chains)
        states = jax.tree.map(partial(_choose, missing & ~still), others, states)
        missing = missing & still
    if missing.any():
        raise _no_start(program, jax.tree.map(lambda x: x[int(jnp.argmax(missing))], states.choices))
    return states


def _prior_states(program: Program, key: PRNGKey, chains: int) -> tuple[State, Bool[Array, "chains"]]:
    drawn = population(program, key, chains, scored=True)
    return State(drawn.choices, drawn.masks), ~jnp.isfinite(drawn.log_proposal + drawn.log_weight)


def _choose(flags: Any, yes: Any, no: Any) -> Any:
    return jnp.where(flags.reshape(*flags.shape, *(1,) * (yes.ndim - flags.ndim)), yes, no)


def _no_start(program: Program, choices: dict[str, Any]) -> DegenerateWeightsError:
    return DegenerateWeightsError(
        f"None of {ATTEMPTS} prior draws of {program.name!r} has a finite log density, so that a chain has no start.\n"
        f"Log density by site at one of them:\n{density_table(program, choices)}\n"
        "Fix: check the marked sites. Where the data are rare under the prior, use ppl.Importance with a proposal."
    )


def over_states(function: Callable[[State], Any], states: State, chains: int) -> Any:
    """Map a function of a state over states in lanes that share their keys."""
    return jax.vmap(function, axis_size=chains, axis_name=Lane(0))(states)
