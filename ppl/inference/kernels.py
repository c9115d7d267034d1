"""Markov kernels as programs, and the machine that runs them in chains.

A kernel is a function `State -> Program`: the program's value is the next state, its coin flips are sites, and it may
record `accepted` and `log_density` with `ppl.deterministic`. So the exact enumerator can run a kernel (see
`reachability`). Law: a kernel of a program leaves the program's measure invariant. This file knows no kernel.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Shaped

from ppl.errors import DegenerateWeightsError
from ppl.inference.data_checks import density_table
from ppl.inference.population import in_lanes, population
from ppl.semantics.handlers import Simulate
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


class Chains(NamedTuple):
    """What the chains visited: states and recorded numbers with leading axes (chain, draw), and the last states."""

    states: State
    stats: dict[str, Shaped[Array, "chains draws"]]
    moved: Bool[Array, "chains"]
    last: State


class Steps(NamedTuple):
    """How long chains run: steps thrown away, draws kept, and steps for each draw kept."""

    warmup: int
    draws: int
    thin: int = 1


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


@partial(jax.jit, static_argnums=(0, 3))
def run_chains(maker: KernelMaker, program: Program, start: tuple[State, PRNGKey], steps: Steps) -> Chains:
    """Run chains of a kernel side by side, from one key.

    Args:
        maker: Makes the kernel of a program; part of the compiled code's identity.
        program: The program; new data of the same shapes need no compilation.
        start: The first states (leading axis: chains) and a key.
        steps: How long to run.

    Returns:
        The visited states, without the warm-up.
    """
    states, key = start
    chains = len(jax.tree.leaves(states)[0]) if jax.tree.leaves(states) else 1

    def step(index: Any, carry: Carry) -> Carry:
        new, stats = _step_in_lanes(maker(program), carry.states, jax.random.fold_in(key, index), chains)
        return Carry(new, stats, carry.moved | _differ(carry.states, new))

    def draw(carry: Carry, index: Any) -> tuple[Carry, Any]:
        end = steps.warmup + (index + 1) * steps.thin
        # The first draw does the warm-up too, so that only one copy of the step is compiled.
        begin = jnp.where(index == 0, 0, end - steps.thin)
        carry = lax.fori_loop(begin, end, step, carry)
        return carry, (carry.states, carry.stats)

    stats = jax.eval_shape(lambda: _step_in_lanes(maker(program), states, key, chains)[1])
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), stats)
    last, visited = lax.scan(draw, Carry(states, blank, jnp.zeros(chains, bool)), jnp.arange(steps.draws))
    visited, stats = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), visited)
    return Chains(visited, stats, last.moved, last.states)


class Carry(NamedTuple):
    """What a step hands to the next: states, their recorded numbers, and which chains have ever moved."""

    states: State
    stats: dict[str, Any]
    moved: Any


def _step_in_lanes(kernel: Kernel, states: State, key: PRNGKey, chains: int) -> tuple[State, dict[str, Any]]:
    """One step of every chain; the chains are lanes that share the key, so each draws for itself."""
    from_state = partial(_step, kernel, key)
    return over_states(from_state, states, chains)


def _step(kernel: Kernel, key: PRNGKey, state: State) -> tuple[State, dict[str, Any]]:
    program = kernel(state)
    new, result = in_lanes(program, Simulate(key), {})
    recorded = {a: result.writes[a] for a, i in program.sites.items() if i.kind == "deterministic"}
    return new, recorded


def over_states(function: Callable[[State], Any], states: State, chains: int) -> Any:
    """Map a function of a state over states in lanes that share their keys."""
    return jax.vmap(function, axis_size=chains, axis_name=Lane(0))(states)


def _differ(old: State, new: State) -> Bool[Array, "chains"]:
    flags = [
        jnp.any((a != b).reshape(a.shape[0], -1), axis=1)
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    ]
    return jnp.any(jnp.stack(flags), axis=0) if flags else jnp.zeros(1, bool)


def mean_accepted(stats: dict[str, Any]) -> float:
    """The share of accepted steps over all chains and draws."""
    return float(jnp.mean(stats["accepted"]))
