"""Adaptive tempered SMC as compiled code: one loop over stages of fixed shapes, made of the functions of a stage.

The schedule, the tuning of the moves and their number are read off the population as it goes (`tempering_schedule`,
`tuned_moves`, `decorrelation`). Choosing them so makes the evidence biased by O(1/N); for a given schedule and tuning
it is unbiased.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, Key

from ppl.inference.decorrelation import Watch, watch, watched
from ppl.inference.drawing import draw
from ppl.inference.genealogy import log_evidence_error
from ppl.inference.kernel_moves import captured_move
from ppl.inference.tempered_stage import born, chained, renewed, reweighed
from ppl.inference.tempering_path import TemperingPath
from ppl.inference.tempering_schedule import Step, next_inverse_temperature
from ppl.inference.tuned_moves import Moved, Moves
from ppl.inference.waste_free import chain_variance
from ppl.numerics.weights import effective_sample_size, has_mass, log_sum_exp, normalize_log_weights
from ppl.semantics.program import Program
from ppl.semantics.representations import Particle
from ppl.typing import PRNGKey

MOST_MOVES = 100
"""The most moves a stage, where their number is chosen by decorrelation."""


@dataclass(frozen=True)
class How:
    """What is part of the compiled code's identity; `keep` is 1, or the states kept of each chain (waste-free)."""

    particles: int
    moves: Moves
    ess: float
    count: int | Literal["auto"]
    keep: int
    scheme: str
    max_stages: int


class Stages(NamedTuple):
    """What happened at each stage: `posterior.history`.

    Attributes:
        beta: The inverse temperature that the stage reached.
        ess: Kish's effective sample size before resampling, in particles.
        log_evidence: The increment of the log evidence (nats).
        acceptance: The mean probability of acceptance of its moves (the share accepted, for a kernel of the user's).
        moves: How many moves it made.
        correlation: The mean correlation between the places before and after its moves.
        step_size: In units of standard deviations (hmc), or of the optimal scale for Normal targets (random walk); NaN
            for a kernel of the user's.
        steps: Leapfrog steps a move; NaN for a kernel of the user's.
        forced: Whether even the smallest step lost too many particles.
        nan_weights: How many log ratios were NaN, and counted as weight zero.
    """

    beta: Float[Array, "stages"]
    ess: Float[Array, "stages"]
    log_evidence: Float[Array, "stages"]
    acceptance: Float[Array, "stages"]
    moves: Float[Array, "stages"]
    correlation: Float[Array, "stages"]
    step_size: Float[Array, "stages"]
    steps: Float[Array, "stages"]
    forced: Float[Array, "stages"]
    nan_weights: Float[Array, "stages"]


class Run(NamedTuple):
    """A run: places, log weights (nats), evidence and its error (nats), the record, the stages made, the last beta."""

    places: Any
    log_weights: Float[Array, "particles"]
    log_evidence: Float[Array, ""]
    error: Float[Array, ""]
    alive: Float[Array, ""]
    stages: Stages
    made: Int32[Array, ""]
    beta: Float[Array, ""]


class _Carry(NamedTuple):
    """What a stage hands to the next. `last` is the population before the last resampling: log weights and eves."""

    particles: Particle
    eve: Any
    last: Any
    variance: Any
    beta: Any
    tuning: Any
    stages: Stages
    count: Any


def blank(length: int) -> Stages:
    """Nothing recorded yet."""
    return Stages(*(jnp.zeros(length, jnp.result_type(float)) for _ in Stages._fields))


def recorded(stages: Stages, place: Any, row: Stages) -> Stages:
    """The record with a row written at a place."""
    return jax.tree.map(lambda column, x: column.at[place].set(x.astype(column.dtype)), stages, row)


def row_of(how: How, step: Step, log_weights: Any, gain: Any, moving: tuple[Moved, Any, Any], nan: Any) -> Stages:
    """The record of a stage.

    Args:
        how: The settings.
        step: The step of the inverse temperature.
        log_weights: Before resampling (nats).
        gain: The increment of the log evidence (nats).
        moving: The moved population, the correlation with the start, the number of moves.
        nan: How many log ratios were NaN.
    """
    moved, correlation, moves = moving
    ess = effective_sample_size(log_weights)
    size, steps = how.moves.size(moved.tuning)
    return Stages(step.beta, ess, gain, moved.acceptance, moves, correlation, size, steps, step.forced, nan)


@partial(jax.jit, static_argnums=0)
def adaptive_runs(how: How, path: TemperingPath, keys: Key[Array, "replicates"]) -> Run:
    """Independent runs, one after the other: one for each key."""
    return lax.map(partial(adaptive_run, how, path), keys)


def adaptive_run(how: How, path: TemperingPath, key: PRNGKey) -> Run:
    """One run of tempered SMC, to be called under `jax.jit`.

    Args:
        how: The settings.
        path: From where to where.
        key: Fixes everything.
    """
    start = Program.of(born, (path,), {"moves": how.moves, "particles": how.particles})
    particles: Particle = draw(start, jax.random.fold_in(key, 0)).value
    eve = jnp.arange(how.particles, dtype=jnp.int32)
    zero = jnp.zeros((), jnp.result_type(float))
    carry = _Carry(
        particles,
        eve,
        (particles.log_weight, eve),
        zero,
        zero,
        how.moves.untuned(path),
        blank(how.max_stages),
        jnp.int32(0),
    )
    alive = jnp.mean(how.moves.log_ratio(path, particles.value) > -jnp.inf)
    end = lax.while_loop(partial(_going_on, how), partial(_stage, how, path, key), carry)
    log_evidence, error = _evidence(how, end)
    weights = jnp.full(how.particles, -jnp.log(how.particles), zero.dtype)
    weights = jnp.where(end.count > 0, weights, normalize_log_weights(particles.log_weight).log_weights)
    return Run(end.particles.value, weights, log_evidence, error, alive, end.stages, end.count, end.beta)


def _going_on(how: How, carry: _Carry) -> Any:
    return (carry.beta < 1) & (carry.count < how.max_stages) & has_mass(carry.last[0])


def _evidence(how: How, end: _Carry) -> tuple[Any, Any]:
    log_weights, eve = end.last
    resampled = jnp.arange(how.max_stages) < end.count - 1
    log_evidence, error = log_evidence_error(log_weights, eve, resampled, how.scheme)
    return log_evidence, error if how.keep == 1 else jnp.sqrt(end.variance)


def _stage(how: How, path: TemperingPath, key: PRNGKey, carry: _Carry) -> _Carry:
    """Choose the next beta, reweigh, tune, resample, move; and record."""
    own = jax.random.fold_in(key, carry.count + 1)
    places = carry.particles.value
    ratios = how.moves.log_ratio(path, places)
    step = next_inverse_temperature(carry.particles.log_weight, ratios, carry.beta, how.ess)
    heavy = reweighed(carry.particles, ratios, carry.beta, step.beta)
    weights = jnp.exp(normalize_log_weights(heavy.log_weight).log_weights)
    tuning = how.moves.tuned(places, weights, carry.tuning)
    (chosen, eve), log_weight = draw(_renewal(how, heavy, carry.eve), jax.random.fold_in(own, 0)).value
    moving = _moved(how, path, chosen, (step.beta, tuning), jax.random.fold_in(own, 1))
    moved = moving[0]
    gain = log_sum_exp(heavy.log_weight) - log_sum_exp(carry.particles.log_weight)
    row = row_of(how, step, heavy.log_weight, gain, moving, jnp.sum(jnp.isnan(ratios)))
    return _Carry(
        Particle(moved.places, jnp.tile(log_weight - jnp.log(how.keep), how.keep)),
        jnp.tile(eve, how.keep),
        (heavy.log_weight, carry.eve),
        carry.variance + _stage_variance(how, heavy.log_weight, carry.count),
        step.beta,
        moved.tuning,
        recorded(carry.stages, carry.count, row),
        carry.count + 1,
    )


def _stage_variance(how: How, log_weights: Any, count: Any) -> Any:
    if how.keep == 1:
        return jnp.zeros((), jnp.result_type(float))
    return chain_variance(log_weights, how.keep, independent=count == 0)


def _renewal(how: How, particles: Particle, eve: Any) -> Program:
    marked = particles._replace(value=(particles.value, eve))
    return Program.of(renewed, (marked,), {"count": how.particles // how.keep, "scheme": how.scheme})


# --- moves ------------------------------------------------------------------------------------------------------------


def _moved(how: How, path: TemperingPath, places: Any, target: Any, key: PRNGKey) -> tuple[Moved, Any, Any]:
    """The population after its moves, the correlation with the start, the number of moves."""
    if how.keep == 1:
        return moved_until(how, path, places, target, key)
    beta, tuning = target
    arguments = (path, places, beta, tuning)
    chains = Program.of(_chains, arguments, {"moves": how.moves, "keep": how.keep})
    whole, acceptance, tuning = draw(chains, key).value
    last = jax.tree.map(lambda x: x[-len(x) // how.keep :], whole)
    seen = watched(watch(), how.moves.coordinates(places, tuning), how.moves.coordinates(last, tuning))
    return Moved(whole, jnp.mean(acceptance), tuning), seen.correlation, jnp.asarray(how.keep - 1)


def _chains(path: TemperingPath, places: Any, beta: Any, tuning: Any, moves: Moves, keep: int) -> Any:
    return chained(moves, path, places, beta, tuning, keep)


class _Moving(NamedTuple):
    """Within the moves of a stage: the last move, the sum of acceptances, the correlation, the number of moves."""

    moved: Moved
    total: Any
    watch: Watch
    count: Any


def moved_until(how: How, path: TemperingPath, places: Any, target: Any, key: PRNGKey) -> tuple[Moved, Any, Any]:
    """Move until the particles have forgotten where they were, or a fixed number of times.

    Args:
        how: The settings.
        path: From where to where.
        places: The particles after resampling.
        target: The inverse temperature and the tuning.
        key: Fixes the moves.
    """
    beta, tuning = target
    start = how.moves.coordinates(places, tuning)
    frame = tuning  # coordinates are compared in one frame, whatever the tuning becomes
    most = MOST_MOVES if how.count == "auto" else how.count

    def going_on(state: _Moving) -> Any:
        more = state.count < most
        return more & ~state.watch.done if how.count == "auto" else more

    def move(state: _Moving) -> _Moving:
        program = captured_move(how.moves, path, state.moved.places, beta, state.moved.tuning)
        moved: Moved = draw(program, jax.random.fold_in(key, state.count)).value
        seen = watched(state.watch, start, how.moves.coordinates(moved.places, frame))
        return _Moving(moved, state.total + moved.acceptance, seen, state.count + 1)

    zero = jnp.zeros((), jnp.result_type(float))
    begin = _Moving(Moved(how.moves.arrive(path, places, beta), zero, tuning), zero, watch(), jnp.int32(0))
    end = lax.while_loop(going_on, move, begin)
    return end.moved._replace(acceptance=end.total / jnp.maximum(end.count, 1)), end.watch.correlation, end.count
