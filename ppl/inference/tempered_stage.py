r"""A stage of tempered SMC, of three model functions: reweigh to the next beta, resample, move.

    reweighed: w_i <- w_i (p / q)(x_i)^(beta' - beta)      renewed: ancestors in proportion to w; each weight the mean
    advanced: every particle by kernels that leave q^(1 - beta') p^beta' invariant

Law: for a fixed schedule a population at beta = 1 stands for the program: E[sum w f(x)] is the integral of f against
its measure, and E[sum w] is the evidence. `tempered_population` is that algorithm as a representation, whose meaning
can be enumerated; `ppl.TemperedSMC` runs the same functions and chooses the schedule as it goes.

Waste-free (`keep` states a chain): only n / keep ancestors are drawn; each makes a chain of keep - 1 moves, and all its
states are kept.

References: Del Moral, Doucet, Jasra, "Sequential Monte Carlo samplers", JRSS B 68 (2006); Dau and
Chopin, "Waste-free sequential Monte Carlo", JRSS B 84 (2022).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ppl.distributions.ancestors import Ancestors
from ppl.inference.kernel_moves import captured_move, moves_of
from ppl.inference.kernels import KernelMaker
from ppl.inference.tempering_path import TemperingPath, checked_path, drawn_state
from ppl.inference.tempering_schedule import weight_increment
from ppl.inference.tuned_moves import Moved, Moves
from ppl.numerics.weights import log_sum_exp
from ppl.semantics.lanes import vmap
from ppl.semantics.language import sample
from ppl.semantics.program import Program
from ppl.semantics.representations import Particle, Population


def born(path: TemperingPath, moves: Moves, particles: int) -> Particle:
    """Independent draws from the start of the path, each with its weight over their number."""

    def one() -> Particle:
        state, log_weight = drawn_state(path.start)
        return Particle(moves.enter(path, state), log_weight - jnp.log(particles))

    return vmap(one, axis_size=particles)()


def reweighed(particles: Particle, log_ratios: Float[Array, "particles"], before: Any, after: Any) -> Particle:
    """Particles for another inverse temperature.

    Args:
        particles: The population.
        log_ratios: log p - log q of each (nats).
        before: Its inverse temperature.
        after: The new one.
    """
    return particles._replace(log_weight=particles.log_weight + weight_increment(log_ratios, after - before))


def renewed(particles: Particle, count: int, scheme: str) -> Particle:
    """`count` particles drawn in proportion to weight; each weight is the sum over `count`."""
    ancestors = sample("ancestors", Ancestors(particles.log_weight, count, scheme))
    log_weight = log_sum_exp(particles.log_weight) - jnp.log(count)
    value = jax.tree.map(lambda x: x[ancestors], particles.value)
    return Particle(value, jnp.broadcast_to(log_weight, (count,)))


def advanced(moves: Moves, path: TemperingPath, places: Any, beta: Any, tuning: Any, count: int) -> Any:
    """The places after `count` moves."""

    def step(places: Any, _: None) -> tuple[Any, None]:
        return sample("move", captured_move(moves, path, places, beta, tuning)).places, None

    return lax.scan(step, moves.arrive(path, places, beta), None, length=count)[0]


def chained(
    moves: Moves, path: TemperingPath, places: Any, beta: Any, tuning: Any, keep: int
) -> tuple[Any, Float[Array, "moves"], Any]:
    """All states of chains of `keep - 1` moves, the first states first; the acceptance by move; the last tuning."""

    def step(carry: Any, _: None) -> tuple[Any, Any]:
        moved: Moved = sample("move", captured_move(moves, path, carry[0], beta, carry[1]))
        return (moved.places, moved.tuning), (moved.places, moved.acceptance)

    start = moves.arrive(path, places, beta)
    (_, tuning), (later, acceptance) = lax.scan(step, (start, tuning), None, length=keep - 1)
    whole = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]).reshape(-1, *a.shape[1:]), start, later)
    return whole, acceptance, tuning


# --- the algorithm with a fixed schedule, as a representation ---------------------------------------------------------


@dataclass(frozen=True)
class Fixed:
    """An algorithm with nothing to choose: numbers of particles, of moves and of states kept a chain."""

    particles: int
    moves: Moves
    count: int = 1
    keep: int = 1
    scheme: str = "systematic"
    reweigh: Callable[..., Particle] = reweighed
    renew: Callable[..., Particle] = renewed


def tempered_population(
    program: Program,
    betas: Sequence[float] | Float[Array, "stages"],
    kernel: str | KernelMaker,
    particles: int,
    *,
    initial: Program | None = None,
    moves: int = 1,
    waste_free: int = 1,
    resampling: str = "systematic",
) -> Population:
    """Tempered SMC with a given schedule, as a population that stands for the program (its values are its choices).

    Args:
        program: The program.
        betas: Rising inverse temperatures, the last of them 1; the first step is from 0.
        kernel: `"random_walk"`, `"hmc"`, or a maker of kernels.
        particles: Number of particles.
        initial: Where the path starts, if not at the prior.
        moves: Moves a stage, after resampling.
        waste_free: States kept of each chain; 1 for plain SMC.
        resampling: The scheme, see `ppl.resample`.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl.inference import trace_mh_kernel
        >>> @ppl.model
        ... def coin():
        ...     x = ppl.sample("x", dist.Bernoulli(0.25))
        ...     ppl.factor("f", 2.0 * x)
        >>> population = tempered_population(coin(), (0.5, 1.0), trace_mh_kernel, 2)
        >>> bool(jnp.allclose(ppl.meaning(population).mass, ppl.meaning(coin()).mass))
        True
    """
    how = Fixed(particles, moves_of(kernel), moves, waste_free, resampling)
    path = checked_path(program, initial)
    return Population(fixed_run(path, jnp.asarray(betas, jnp.result_type(float)), how), particles)


def fixed_run(path: TemperingPath, betas: Float[Array, "stages"], how: Fixed) -> Program:
    """The program of `tempered_population`."""
    return Program.of(_fixed, (path, betas), {"how": how})


def _fixed(path: TemperingPath, betas: Any, how: Fixed) -> Particle:
    particles = sample("start", Program.of(born, (path,), {"moves": how.moves, "particles": how.particles}))
    before: Any = 0.0
    for number in range(betas.shape[0]):
        stage = Program.of(_stage, (path, particles, before, betas[number]), {"how": how})
        particles, before = sample(f"stage {number}", stage), betas[number]
    states = jax.vmap(lambda place: how.moves.choices(path, place))(particles.value)
    return particles._replace(value=states.choices)


def _stage(path: TemperingPath, particles: Particle, before: Any, after: Any, how: Fixed) -> Particle:
    particles = how.reweigh(particles, how.moves.log_ratio(path, particles.value), before, after)
    chosen = how.renew(particles, how.particles // how.keep, how.scheme)
    tuning = how.moves.untuned(path)
    if how.keep == 1:
        return chosen._replace(value=advanced(how.moves, path, chosen.value, after, tuning, how.count))
    places, _, _ = chained(how.moves, path, chosen.value, after, tuning, how.keep)
    return Particle(places, jnp.tile(chosen.log_weight - jnp.log(how.keep), how.keep))
