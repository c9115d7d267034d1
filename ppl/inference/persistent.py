r"""Persistent sampling: tempered SMC that keeps the populations of all stages, reweighted as draws of one mixture.

After t populations, at beta_1 = 0, ..., beta_t with evidences Z_s, a particle of any of them weighs, for a beta,

    w(x) = q(x)^(1 - beta) p(x)^beta / (N sum_{s <= t} q(x)^(1 - beta_s) p(x)^beta_s / Z_s),      Z(beta) = sum of all w

(the balance heuristic). The next beta is the largest at which the effective sample size of the whole pool is still
`ess` N; N particles are resampled from the pool, moved, and join it. It is consistent as N grows, and biased at finite
N: the Z_s inside the mixture are estimates. The pool takes memory for `max_stages` populations; it tells no error.

Reference: Karamanis and Seljak, "Persistent sampling: enhancing the efficiency of sequential Monte Carlo", Statistics
and Computing 35 (2025).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key

from ppl.inference.drawing import draw
from ppl.inference.tempered_run import How, Run, blank, moved_until, recorded, row_of
from ppl.inference.tempered_stage import born, renewed
from ppl.inference.tempering_path import TemperingPath
from ppl.inference.tempering_schedule import largest_step, weight_increment
from ppl.numerics.weights import effective_sample_size, log_sum_exp, normalize_log_weights
from ppl.semantics.program import Program
from ppl.semantics.representations import Particle
from ppl.typing import PRNGKey


class Pool(NamedTuple):
    """All populations, those to come included; rows are populations.

    Attributes:
        places: The particles.
        log_ratios: log p - log q of each (nats).
        mixture: log of the sum over populations s of (p / q)^beta_s / Z_s at each particle; +inf where none is yet.
        betas: The inverse temperatures of the populations.
        log_evidence: log Z_s (nats).
        size: The number of populations.
    """

    places: Any
    log_ratios: Float[Array, "rows particles"]
    mixture: Float[Array, "rows particles"]
    betas: Float[Array, "rows"]
    log_evidence: Float[Array, "rows"]
    size: Any

    def log_weights(self, beta: Any) -> Float[Array, "pool"]:
        """The log weights of the whole pool at an inverse temperature (nats); their sum estimates its evidence."""
        weights = weight_increment(self.log_ratios, beta) - self.mixture - jnp.log(self.log_ratios.shape[1])
        return jnp.where(jnp.isposinf(self.mixture), -jnp.inf, weights).reshape(-1)

    def joined(self, places: Any, log_ratios: Any, beta: Any, log_evidence: Any) -> "Pool":
        """With another population, made at an inverse temperature whose log evidence is estimated."""
        betas, evidences = self.betas.at[self.size].set(beta), self.log_evidence.at[self.size].set(log_evidence)
        own = weight_increment(log_ratios[None], betas[:, None]) - evidences[:, None]
        made = jnp.arange(len(betas))[:, None] <= self.size
        mixture = jnp.logaddexp(self.mixture, weight_increment(self.log_ratios, beta) - log_evidence)
        mixture = mixture.at[self.size].set(logsumexp(jnp.where(made, own, -jnp.inf), axis=0))
        ratios = self.log_ratios.at[self.size].set(log_ratios)
        kept = jax.tree.map(lambda rows, x: rows.at[self.size].set(x), self.places, places)
        return Pool(kept, ratios, mixture, betas, evidences, self.size + 1)


def first_pool(places: Any, log_ratios: Float[Array, "particles"], log_evidence: Any, rows: int) -> Pool:
    """A pool of one population at beta = 0, with room for others."""
    shape = (rows, len(log_ratios))
    empty = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), places)
    zeros, dtype = jnp.zeros(rows, log_ratios.dtype), log_ratios.dtype
    pool = Pool(empty, jnp.zeros(shape, dtype), jnp.full(shape, jnp.inf, dtype), zeros, zeros, jnp.int32(0))
    return pool.joined(places, log_ratios, jnp.zeros((), dtype), log_evidence)


class _Carry(NamedTuple):
    pool: Pool
    beta: Any
    tuning: Any
    stages: Any
    mass: Any


@partial(jax.jit, static_argnums=0)
def persistent_runs(how: How, path: TemperingPath, keys: Key[Array, "replicates"]) -> Run:
    """Independent runs, one after the other: one for each key."""
    return lax.map(partial(persistent_run, how, path), keys)


def persistent_run(how: How, path: TemperingPath, key: PRNGKey) -> Run:
    """One run of persistent sampling, to be called under `jax.jit`; the places and weights are those of the pool.

    Args:
        how: The settings.
        path: From where to where.
        key: Fixes everything.
    """
    start = Program.of(born, (path,), {"moves": how.moves, "particles": how.particles})
    drawn: Particle = draw(start, jax.random.fold_in(key, 0)).value
    even = draw(_renewal(how, drawn), jax.random.fold_in(key, 1)).value
    ratios = how.moves.log_ratio(path, even.value)
    pool = first_pool(even.value, ratios, log_sum_exp(drawn.log_weight), how.max_stages + 1)
    zero = jnp.zeros((), jnp.result_type(float))
    carry = _Carry(pool, zero, how.moves.untuned(path), blank(how.max_stages), log_sum_exp(drawn.log_weight))
    end = lax.while_loop(partial(_going_on, how), partial(_stage, how, path, key), carry)
    log_weights = end.pool.log_weights(end.beta)
    places = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), end.pool.places)
    log_evidence = jnp.where(jnp.isneginf(end.mass), end.mass, log_sum_exp(log_weights))
    weights = normalize_log_weights(log_weights).log_weights
    alive = jnp.mean(ratios > -jnp.inf)
    return Run(places, weights, log_evidence, zero + jnp.inf, alive, end.stages, end.pool.size - 1, end.beta)


def _going_on(how: How, carry: _Carry) -> Any:
    return (carry.beta < 1) & (carry.pool.size <= how.max_stages) & (carry.mass > -jnp.inf)


def _renewal(how: How, particles: Particle) -> Program:
    return Program.of(renewed, (particles,), {"count": how.particles, "scheme": how.scheme})


def _stage(how: How, path: TemperingPath, key: PRNGKey, carry: _Carry) -> _Carry:
    """Choose the next beta for the pool, tune, resample from it, move, and join; record."""
    pool, own = carry.pool, jax.random.fold_in(key, carry.pool.size + 1)
    alive = jnp.where(pool.log_ratios.reshape(-1) > -jnp.inf, pool.log_weights(carry.beta), -jnp.inf)
    wanted = how.ess * jnp.minimum(effective_sample_size(alive), how.particles)
    step = largest_step(lambda delta: effective_sample_size(pool.log_weights(carry.beta + delta)), wanted, carry.beta)
    places = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), pool.places)
    heavy = Particle(places, pool.log_weights(step.beta))
    weights = jnp.exp(normalize_log_weights(heavy.log_weight).log_weights)
    tuning = how.moves.tuned(places, weights, carry.tuning)
    chosen = draw(_renewal(how, heavy), jax.random.fold_in(own, 0)).value.value
    moving = moved_until(how, path, chosen, (step.beta, tuning), jax.random.fold_in(own, 1))
    mass, before = log_sum_exp(heavy.log_weight), pool.log_evidence[pool.size - 1]
    row = row_of(how, step, heavy.log_weight, mass - before, moving, jnp.sum(jnp.isnan(pool.log_ratios)))
    moved = moving[0]
    joined = pool.joined(moved.places, how.moves.log_ratio(path, moved.places), step.beta, mass)
    return _Carry(joined, step.beta, moved.tuning, recorded(carry.stages, pool.size - 1, row), mass)
