r"""The moves of tempered SMC: kernels that a population tunes for itself, as programs.

`RandomWalkMoves` steps by Normal(0, s^2 2.38^2 / d C), C the particles' weighted covariance, s led by the acceptance.
`HamiltonianMoves` has the inverse of the particles' variances as mass; its step size is led by the acceptance, and its
length is that of the trajectory that jumped farthest for its cost. Law: for a
given tuning each leaves q^(1 - beta) p^beta invariant. Tuning reads averages over the population alone, so a particle's
own influence on its kernel is O(1/N) (Beskos et al. 2016).

References: Roberts, Gelman, Gilks (1997) for 2.38 and the rates of acceptance; Buchholz, Chopin, Jacob, "Adaptive
tuning of Hamiltonian Monte Carlo within sequential Monte Carlo", Bayesian Analysis 16 (2021), for mass and length from
the particles and the jump for its cost, after Fearnhead and Taylor (2013).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ppl.inference.kernels import State
from ppl.inference.tempering_path import Densities, TemperingPath, vector_densities, vector_target
from ppl.numerics.integrators import Point, energy, momentum_of, trajectory
from ppl.semantics.lanes import vmap
from ppl.semantics.language import sample

MOST_STEPS = 256
"""The most leapfrog steps a trajectory."""
HAMILTONIAN_ACCEPTANCE = 0.8
RIDGE = 1e-6
"""What is added to the diagonal of a covariance, as a share of it."""


class Place(NamedTuple):
    """A particle in R^n with the densities there; the gradient at the stage's beta, where the moves need it."""

    position: Float[Array, "*particles dim"]
    densities: Densities
    gradient: Any = ()


class Moved(NamedTuple):
    """A population after a move, the mean probability of acceptance, and what the tuning learnt from it."""

    places: Any
    acceptance: Float[Array, ""]
    tuning: Any


@runtime_checkable
class Moves(Protocol):
    """How a population moves. Implementations are frozen dataclasses, part of the compiled code's identity."""

    def enter(self, path: TemperingPath, state: State) -> Any:
        """The place of one particle with such choices."""
        ...

    def log_ratio(self, path: TemperingPath, places: Any) -> Float[Array, "particles"]:
        """Log p - log q of each particle (nats)."""
        ...

    def untuned(self, path: TemperingPath) -> Any:
        """The tuning to begin with."""
        ...

    def tuned(self, places: Any, weights: Float[Array, "particles"], tuning: Any) -> Any:
        """The tuning for a target that the weighted particles stand for; the weights sum to one."""
        ...

    def arrive(self, path: TemperingPath, places: Any, beta: Any) -> Any:
        """The places, made ready for moves at another inverse temperature."""
        ...

    def move(self, path: TemperingPath, places: Any, beta: Any, tuning: Any) -> Moved:
        """Move every particle once: a model function, whose coin flips are sites."""
        ...

    def coordinates(self, places: Any, tuning: Any) -> Float[Array, "particles coordinates"]:
        """Numbers by which to tell how far the population has moved."""
        ...

    def size(self, tuning: Any) -> tuple[Any, Any]:
        """The step size and the number of steps, for the record."""
        ...

    def choices(self, path: TemperingPath, places: Any) -> State:
        """The choices of one particle."""
        ...


def weighted_moments(
    positions: Float[Array, "particles dim"], weights: Float[Array, "particles"]
) -> tuple[Float[Array, "dim"], Float[Array, "particles dim"]]:
    """The mean, and the centred positions; those of weight zero count for nothing, be they NaN."""
    seen = jnp.where(weights[:, None] > 0, positions, 0.0)
    mean = weights @ seen
    return mean, jnp.where(weights[:, None] > 0, seen - mean[None], 0.0)


class _VectorMoves:
    """What the moves of vectors share."""

    def enter(self, path: TemperingPath, state: State) -> Place:
        """Choices as a vector, with its densities."""
        position = vector_target(path).vector(state.choices)
        return Place(position, vector_densities(path, position))

    def log_ratio(self, path: TemperingPath, places: Place) -> Float[Array, "particles"]:
        """Known already."""
        del path
        return places.densities.ratio

    def choices(self, path: TemperingPath, places: Place) -> State:
        """The continuous choices."""
        return State(vector_target(path).choices(places.position), {})


def _decided(old: Place, new: Place, log_acceptance: Any) -> tuple[Place, Any]:
    """Accept or stay, at the site `accept`; a move to what is no number is never accepted."""
    possible = ~jnp.isnan(log_acceptance) & jnp.all(jnp.isfinite(new.position))
    acceptance = jnp.where(possible, jnp.exp(jnp.minimum(log_acceptance, 0.0)), 0.0)
    accepted = sample("accept", dist.Bernoulli(probs=acceptance)) == 1
    return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old), acceptance


# --- random walk ------------------------------------------------------------------------------------------------------


class Walk(NamedTuple):
    """The covariance's Cholesky factor, its inverse, and the log of the scale beyond 2.38 / sqrt(d)."""

    factor: Float[Array, "dim dim"]
    whitening: Float[Array, "dim dim"]
    log_scale: Float[Array, ""]


@dataclass(frozen=True)
class RandomWalkMoves(_VectorMoves):
    """Random-walk Metropolis with the particles' covariance."""

    def untuned(self, path: TemperingPath) -> Walk:
        """Ones."""
        ones = jnp.eye(vector_target(path).dim)
        return Walk(ones, ones, jnp.zeros(()))

    def tuned(self, places: Place, weights: Float[Array, "particles"], tuning: Walk) -> Walk:
        """The weighted covariance; the factor before it, where it is singular."""
        _, centred = weighted_moments(places.position, weights)
        covariance = (centred * weights[:, None]).T @ centred
        variances = jnp.diagonal(covariance)
        factor = jnp.linalg.cholesky(covariance + jnp.diag(RIDGE * variances))
        good = jnp.all(jnp.isfinite(factor)) & jnp.all(variances > 0)
        factor = jnp.where(good, factor, tuning.factor)
        whitening = jax.scipy.linalg.solve_triangular(factor, jnp.eye(len(factor)), lower=True)
        return tuning._replace(factor=factor, whitening=whitening)

    def arrive(self, path: TemperingPath, places: Place, beta: Any) -> Place:
        """The densities hold for every beta."""
        del path, beta
        return places

    def move(self, path: TemperingPath, places: Place, beta: Any, tuning: Walk) -> Moved:
        """One step of every particle."""
        dim = tuning.factor.shape[0]
        scale = jnp.exp(tuning.log_scale) * 2.38 / max(dim, 1) ** 0.5

        def one(old: Place) -> tuple[Place, Any]:
            noise = sample("noise", dist.Normal(jnp.zeros(dim), 1.0).to_event(1))
            position = old.position + scale * (tuning.factor @ noise)
            new = Place(position, vector_densities(path, position))
            return _decided(old, new, new.densities.at(beta) - old.densities.at(beta))

        moved, acceptance = vmap(one)(places)
        mean = jnp.mean(acceptance)
        wanted = 0.234 + 0.206 / max(dim, 1)  # 0.44 in one dimension, 0.234 in many
        return Moved(moved, mean, tuning._replace(log_scale=jnp.clip(tuning.log_scale + mean - wanted, -12.0, 3.0)))

    def coordinates(self, places: Place, tuning: Walk) -> Float[Array, "particles dim"]:
        """Whitened positions: a direction along which modes lie apart does not hide the others."""
        return places.position @ tuning.whitening.T

    def size(self, tuning: Walk) -> tuple[Any, Any]:
        """The scale in units of the optimal one for Normal targets; one step."""
        return jnp.exp(tuning.log_scale), jnp.ones(())


# --- Hamiltonian ------------------------------------------------------------------------------------------------------


class Trajectories(NamedTuple):
    """Variances; logs of step size and length, in units of standard deviations; the best jump for its cost."""

    inverse_mass: Float[Array, "dim"]
    log_step: Float[Array, ""]
    log_length: Float[Array, ""]
    best: Float[Array, ""]


@dataclass(frozen=True)
class HamiltonianMoves(_VectorMoves):
    """Hamiltonian Monte Carlo with the particles' variances as inverse mass."""

    def enter(self, path: TemperingPath, state: State) -> Place:
        """Choices as a vector, with its densities; the gradient comes with the first stage."""
        place = super().enter(path, state)
        return place._replace(gradient=jnp.zeros_like(place.position))

    def untuned(self, path: TemperingPath) -> Trajectories:
        """Steps of d^(-1/4), a quarter of a period long."""
        dim = max(vector_target(path).dim, 1)
        return Trajectories(
            jnp.ones(vector_target(path).dim), jnp.log(dim**-0.25), jnp.log(0.5 * jnp.pi), jnp.zeros(())
        )

    def tuned(self, places: Place, weights: Float[Array, "particles"], tuning: Trajectories) -> Trajectories:
        """The weighted variances; those before, where they are zero."""
        _, centred = weighted_moments(places.position, weights)
        variances = weights @ centred**2
        good = jnp.isfinite(variances) & (variances > 0)
        return tuning._replace(inverse_mass=jnp.where(good, variances, tuning.inverse_mass))

    def arrive(self, path: TemperingPath, places: Place, beta: Any) -> Place:
        """The gradients at beta."""
        gradients = jax.vmap(lambda x: jax.grad(lambda u: vector_densities(path, u).at(beta))(x))(places.position)
        return places._replace(gradient=gradients)

    def move(self, path: TemperingPath, places: Place, beta: Any, tuning: Trajectories) -> Moved:
        """One trajectory of every particle, of one length for all that is random around the best one."""
        step, dim = jnp.exp(tuning.log_step), tuning.inverse_mass.shape[0]
        length = jnp.exp(tuning.log_length) * sample("length", dist.Uniform(0.5, 1.5))
        steps = jnp.clip(jnp.ceil(length / step), 1, MOST_STEPS).astype(jnp.int32)

        def density(position: Any) -> Any:
            densities = vector_densities(path, position)
            return densities.at(beta), densities

        def value_and_grad(position: Any) -> Any:
            (value, _), gradient = jax.value_and_grad(density, has_aux=True)(position)
            return value, gradient

        def one(old: Place) -> tuple[Place, Any, Any]:
            noise = sample("momentum", dist.Normal(jnp.zeros(dim), 1.0).to_event(1))
            start = Point(old.position, momentum_of(tuning.inverse_mass, noise), old.densities.at(beta), old.gradient)
            end = trajectory(value_and_grad, tuning.inverse_mass, length / steps, steps, start)
            new = Place(end.position, vector_densities(path, end.position), end.gradient)
            ratio = energy(tuning.inverse_mass, start) - energy(tuning.inverse_mass, end)
            jump = jnp.sum((end.position - old.position) ** 2 / tuning.inverse_mass)
            moved, acceptance = _decided(old, new, ratio)
            return moved, acceptance, jnp.where(acceptance > 0, acceptance * jump, 0.0)

        moved, acceptance, jumps = vmap(one)(places)
        return Moved(
            moved, jnp.mean(acceptance), _learnt(tuning, length, jnp.mean(acceptance), jnp.mean(jumps) / steps)
        )

    def coordinates(self, places: Place, tuning: Trajectories) -> Float[Array, "particles dim"]:
        """Positions."""
        del tuning
        return places.position

    def size(self, tuning: Trajectories) -> tuple[Any, Any]:
        """The step size in standard deviations; the number of steps."""
        return jnp.exp(tuning.log_step), jnp.ceil(jnp.exp(tuning.log_length - tuning.log_step))


def _learnt(tuning: Trajectories, length: Any, acceptance: Any, gain: Any) -> Trajectories:
    """Another step size by the acceptance; this length, if none before jumped farther for its cost."""
    log_step = jnp.clip(tuning.log_step + acceptance - HAMILTONIAN_ACCEPTANCE, -12.0, 1.0)
    better = gain > tuning.best
    log_length = jnp.clip(jnp.where(better, jnp.log(length), tuning.log_length), log_step, jnp.log(10.0))
    # What was best is forgotten slowly, since the target changes.
    return tuning._replace(log_step=log_step, log_length=log_length, best=jnp.where(better, gain, 0.9 * tuning.best))
