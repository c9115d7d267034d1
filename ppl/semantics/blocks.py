"""The building blocks of sequential Monte Carlo on populations. Each preserves the meaning of its argument.

    spawn n        n independent copies, each with weight 1/n
    resample       ancestors in proportion to weight; every weight becomes the mean
    proper         draw one particle in proportion; its weight is the sum
    push_evidence  normalise the weights; the evidence becomes a factor

Every coin flip is a `sample` site, so that the exact enumerator can run a whole algorithm. Populations without mass are
left alone: never NaN. Transformers compare by what they do, so that an algorithm made anew is not compiled anew.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from numpyro.distributions import Categorical

from ppl.distributions.ancestors import Ancestors
from ppl.numerics.resampling import resampler
from ppl.numerics.weights import effective_sample_size, has_mass, log_sum_exp
from ppl.semantics.lanes import vmap
from ppl.semantics.language import factor, sample
from ppl.semantics.program import Program
from ppl.semantics.representations import Particle, Population, Weighted

Transformer = Callable[[Any], Any]


def spawn(n: int) -> Transformer:
    """`n` independent copies of a weighted program or of a population, each with weight `1/n`.

    Returns:
        A transformer `Weighted -> Population` of `n` particles, or `Population` of m -> `Population` of n m.
    """
    return Spawn(n)


@dataclass(frozen=True)
class Spawn:
    """What `spawn` makes."""

    n: int

    def __call__(self, representation: Weighted | Population) -> Population:
        """Copy."""
        size = getattr(representation, "n", 1)
        return Population(Program.of(_spawned, (representation.program,), {"n": self.n}), self.n * size)


def _spawned(program: Program, n: int) -> Particle:
    copies = vmap(lambda: sample("copy", program), axis_size=n)()
    log_weight = copies.log_weight - jnp.log(n)
    if log_weight.ndim == 1:
        return Particle(copies.value, log_weight)
    return Particle(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), copies.value), log_weight.reshape(-1))


def resample(scheme: str = "systematic", threshold: float | None = None) -> Transformer:
    """Replace particles by copies of their ancestors, drawn in proportion to weight; each weight becomes the mean.

    Args:
        scheme: `"multinomial"`, `"systematic"`, `"stratified"`, `"residual"`, `"ssp"` or `"killing"`; or, biased,
            `"metropolis"`, with its number of steps as in `"metropolis 64"`.
        threshold: Resample only where the effective sample size is below this fraction of the population; always by
            default.

    Returns:
        A transformer `Population -> Population` of the same size.

    Raises:
        MeasureError: where there is no scheme of this name.
    """
    resampler(scheme)
    return Resample(scheme, threshold)


@dataclass(frozen=True)
class Resample:
    """What `resample` makes."""

    scheme: str
    threshold: float | None

    def __call__(self, population: Population) -> Population:
        """Resample."""
        settings = {"scheme": self.scheme, "threshold": self.threshold}
        return Population(Program.of(_resampled, (population.program,), settings), population.n)


def _resampled(program: Program, scheme: str, threshold: float | None) -> Particle:
    particles = sample("before", program)
    if threshold is None:
        return resampled(particles, scheme)
    n = particles.log_weight.shape[0]
    poor = effective_sample_size(particles.log_weight) < threshold * n
    return lax.cond(poor, lambda p: resampled(p, scheme), lambda p: p, particles)


def resampled(particles: Particle, scheme: str) -> Particle:
    """Resample particles inside a model: one site, `ancestors`."""
    n = particles.log_weight.shape[0]
    ancestors = sample("ancestors", Ancestors(particles.log_weight, n, scheme))
    mean = log_sum_exp(particles.log_weight) - jnp.log(n)
    alive = has_mass(particles.log_weight)
    log_weight = jnp.where(alive, jnp.broadcast_to(mean, (n,)), particles.log_weight)
    return Particle(jax.tree.map(lambda x: x[ancestors], particles.value), log_weight)


def proper() -> Transformer:
    """Draw one particle in proportion to weight; its weight is the sum. `Population -> Weighted`."""
    return _proper


def _proper(population: Population) -> Weighted:
    return Weighted(Program.of(_one, (population.program,)))


def _one(program: Program) -> Particle:
    particles = sample("before", program)
    logits = jnp.where(has_mass(particles.log_weight), particles.log_weight, 0.0)
    index = sample("pick", Categorical(logits=logits))
    return Particle(jax.tree.map(lambda x: x[index], particles.value), log_sum_exp(particles.log_weight))


def push_evidence() -> Transformer:
    """Normalise the weights of each population; its evidence becomes a factor. `Population -> Population`."""
    return _push_evidence


def _push_evidence(population: Population) -> Population:
    return Population(Program.of(_pushed, (population.program,)), population.n)


def _pushed(program: Program) -> Particle:
    particles = sample("before", program)
    log_evidence = log_sum_exp(particles.log_weight)
    factor("evidence", log_evidence)
    n = particles.log_weight.shape[0]
    uniform = jnp.full((n,), -jnp.log(n), particles.log_weight.dtype)
    normal = particles.log_weight - jnp.where(jnp.isfinite(log_evidence), log_evidence, 0.0)
    return Particle(particles.value, jnp.where(jnp.isfinite(log_evidence), normal, uniform))


def compose(*transformers: Transformer) -> Transformer:
    """Apply transformers from right to left, as functions compose."""
    return Composed(transformers)


@dataclass(frozen=True)
class Composed:
    """What `compose` makes."""

    transformers: tuple[Transformer, ...]

    def __call__(self, representation: Any) -> Any:
        """Apply them, the last first."""
        for transformer in reversed(self.transformers):
            representation = transformer(representation)
        return representation


def identity(representation: Any) -> Any:
    """The transformer that does nothing."""
    return representation
