"""Is it an involution? A user's move is tried at prior draws before any chain runs.

Law: a move passes only if, at every one of the draws, a second application returns the start, as many continuous
choices are made after it as before, and the two Jacobian determinants are reciprocal (where they are not, a derivative
is wrong: `jax.lax.stop_gradient`, a custom rule). It says nothing of points that prior draws do not reach: the kernel
goes on checking each of its moves.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppl.errors import ConvergenceError, LawViolation
from ppl.inference.involution_runs import described
from ppl.inference.involutive import Aux, Involution, Involutive, Pair, applied, coordinates, made_flags, propose, same
from ppl.inference.kernels import State, initial_states, over_states
from ppl.inference.population import in_lanes
from ppl.semantics.handlers import Simulate
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

DRAWS = 64
"""How many prior draws are moved."""
TOLERANCE = 0.01
"""How far the sum of the two log determinants may be from zero, in proportion to their size."""


class Report(NamedTuple):
    """One tried move; lists have an entry for each leaf of the pair's choices."""

    start: list[Any]
    moved: list[Any]
    back: list[Any]
    same: list[Any]
    made: tuple[list[Any], list[Any]]
    matched: Any
    possible: Any
    log_dets: tuple[Any, Any]


def check_involution(program: Program, aux: Aux, involution: Involution, key: PRNGKey) -> None:
    """Raise where a move for `involutive` is no involution, at 64 prior draws of the program and of `aux`.

    Args:
        program: The target.
        aux: From the choices to the auxiliary program.
        involution: `(choices, aux_choices) -> (new_choices, new_aux_choices)`.
        key: For the draws.

    Raises:
        LawViolation: with the address, the value expected and the one got.
        ConvergenceError: no move led to positive density, so that nothing was checked.
        AddressError, ShapeError, DtypeError: what it returns does not fit the programs.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def income():
        ...     return ppl.sample("x", dist.LogNormal(3.0, 0.5))
        >>> @ppl.model
        ... def factor(choices):
        ...     return ppl.sample("log", dist.Normal(0.0, 0.3))
        >>> def scale(choices, aux):
        ...     return {"x": choices["x"] * jnp.exp(aux["log"])}, {"log": -aux["log"]}
        >>> check_involution(income(), factor, scale, jax.random.key(0))
    """
    move = Involutive(aux, involution)
    start_key, aux_key = jax.random.split(key)
    states = initial_states(program, start_key, DRAWS)
    report = jax.tree.map(np.asarray, _reports(move, program, states, aux_key))
    if not report.possible.any():
        raise ConvergenceError(
            f"None of {DRAWS} moves of {described(involution)} from prior draws of {program.name!r} led to positive "
            "density, so that the involution could not be checked.\n"
            "Fix: let it stay inside the supports; its second dict is scored by the auxiliary program."
        )
    names = _names(program, move, states)
    _check_numbers(report, names, involution)
    _check_values(report, names, involution)
    _check_determinants(report, involution)


@partial(jax.jit, static_argnums=0)
def _reports(move: Involutive, program: Program, states: State, key: PRNGKey) -> Report:
    def one(state: State) -> Report:
        return in_lanes(Program.of(_tried, (program, state, move)), Simulate(key), {})[0]

    return over_states(one, states, DRAWS)


def _tried(program: Program, state: State, move: Involutive) -> Report:
    there = propose(program, state, move)
    again = applied(program, move, there.new)
    return Report(
        jax.tree.leaves(there.old.choices),
        jax.tree.leaves(there.new.choices),
        there.back,
        same(there.old, there.back),
        (made_flags(there.old), made_flags(there.new)),
        there.matched,
        there.possible & (there.old.log_density > -jnp.inf),
        (there.log_det, again.log_det),
    )


def _names(program: Program, move: Involutive, states: State) -> list[Any]:
    found = []

    def look(program: Program, state: State) -> Any:
        pair: Pair = propose(program, state, move).old
        found.append(coordinates(pair, (program, move.aux(state.choices))))
        return jnp.zeros(())

    Program.of(look, (program, jax.tree.map(lambda x: x[0], states))).staged  # noqa: B018  (traced for its names)
    return found[0]


def _check_numbers(report: Report, names: list[Any], involution: Involution) -> None:
    wrong = report.possible & ~report.matched
    if not wrong.any():
        return
    i = int(np.argmax(wrong))
    before, after = (_listed(names, flags, i) for flags in report.made)
    raise LawViolation(
        f"The involution {described(involution)} changes the number of continuous choices that are made.\n"
        f"Made before: {before}.\nMade after: {after}.\n"
        f"The move started from {_values(names, report.start, i)}.\n"
        "Expected: as many after as before, those of the program and the auxiliary ones taken together.\n"
        "Fix: draw as many auxiliary numbers as the other side has more choices, inside a branch of the auxiliary "
        "program."
    )


def _listed(names: list[Any], made: list[Any], i: int) -> str:
    counts = [(n.address, int(flags[i].sum())) for n, flags in zip(names, made, strict=True) if n.kind]
    total = sum(count for _, count in counts)
    return f"{total} ({', '.join(f'{a!r}: {count}' for a, count in counts)})"


def _check_values(report: Report, names: list[Any], involution: Involution) -> None:
    for name, start, back, flags in zip(names, report.start, report.back, report.same, strict=True):
        wrong = report.possible & ~flags.reshape(DRAWS, -1).all(axis=1)
        if wrong.any():
            i = int(np.argmax(wrong))
            element = tuple(int(j) for j in np.argwhere(~flags[i])[0])
            at = f"{name.address!r} ({name.source})" + (f" at index {element}" if element else "")
            raise LawViolation(
                f"Applied twice, the involution {described(involution)} does not return {at}.\n"
                f"Expected: {start[i][element]!s}.\nGot: {back[i][element]!s}.\n"
                f"The move started from {_values(names, report.start, i)}\n"
                f"and its first application led to {_values(names, report.moved, i)}.\n"
                "Fix: the new auxiliary choices must be those that lead back."
            )


def _values(names: list[Any], leaves: list[Any], i: int) -> str:
    return ", ".join(f"{n.address}={np.asarray(x[i]).tolist()}" for n, x in zip(names, leaves, strict=True))


def _check_determinants(report: Report, involution: Involution) -> None:
    there, back = report.log_dets
    wrong = report.possible & ~(np.abs(there + back) <= TOLERANCE * (1 + np.abs(there)))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise LawViolation(
            f"The Jacobian determinants of {described(involution)} there and back are not reciprocal.\n"
            f"Expected: log determinants that add up to zero.\nGot: {there[i]:.6g} there, {back[i]:.6g} back.\n"
            "The likely cause is a derivative that is cut off (jax.lax.stop_gradient, rounding, a conversion to "
            "integers and back)."
        )
