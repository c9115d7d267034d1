"""Wrong versions of every block and construction: each must be caught by the law that it breaks.

They are written like the right ones, with one mistake each. `docs/semantics.md` says which law kills which.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.distributions.ancestors import Ancestors
from ppl.numerics.weights import effective_sample_size, log_sum_exp
from ppl.semantics.representations import WeighSites, weigh
from ppl.semantics.rewrites import Rewrite

# --- the measure monad ------------------------------------------------------------------------------------------------


class ScoreTwice(Rewrite):
    """Binds every factor twice over."""

    def factor(self, site, log_weight, where):
        return super().factor(site, 2 * log_weight, where)


def scored_twice(program):
    """Every factor counts double: score r is r squared."""
    return ppl.Program.of(_rewritten, (program,), {"handler": ScoreTwice})


def _rewritten(program, handler):
    return program.rewrite(handler())


def unscored(program):
    """The prior: observations and factors are dropped."""
    return ppl.Program.of(_prior, (program,))


def _prior(program):
    return weigh(program).value


def bind_without_first_score(program, kernel):
    """Follows the prior of the first program."""
    return ppl.bind(unscored(program), kernel)


def bind_weighted_forgetting(representation, kernel):
    """The weight of the first part is lost."""
    return ppl.Weighted(ppl.Program.of(_bound_forgetting, (representation.program,), {"kernel": kernel}))


def _bound_forgetting(program, kernel):
    return ppl.sample("then", kernel(ppl.sample("first", program).value).program)


def bind_population_to_first(representation, kernel):
    """All particles follow the path of the first one."""
    n = representation.n
    return ppl.Population(ppl.Program.of(_bound_to_first, (representation.program,), {"kernel": kernel}), n)


def _bound_to_first(program, kernel):
    first = ppl.sample("first", program)
    then = ppl.sample("then", kernel(jax.tree.map(lambda x: x[0], first.value)).program)
    count = first.log_weight.shape[0]
    value = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape[1:])), then.value)
    return ppl.Particle(value, first.log_weight + then.log_weight)


def bind_finite_forgetting(measure, kernel):
    """The inner masses are lost."""
    inner = jax.vmap(kernel)(measure.values)
    joint = measure.log_weights[:, None] + jnp.zeros_like(inner.log_weights)
    return ppl.FiniteMeasure(joint.reshape(-1), inner.values.reshape(-1))


def map_by_prior(program, f):
    """A push-forward that loses the scores."""
    return unscored(program).map(f)


def weighted_without_weights(program):
    """The weighted sampler whose weights are all one."""
    return ppl.Weighted(ppl.Program.of(_no_weight, (program,)))


def _no_weight(program):
    particle = weigh(program)
    return particle._replace(log_weight=jnp.zeros_like(particle.log_weight))


class WeighChoices(WeighSites):
    """Choices weigh as well, though they are drawn."""

    def sample(self, node, read, where):
        outcome = super().sample(node, read, where)
        if node.observed is not None:
            return outcome
        return outcome._replace(increment=jnp.sum(node.measure.log_prob(outcome.value)))


def weighted_by_joint(program):
    """The weight of a draw is its joint density, not its likelihood."""
    return ppl.Weighted(ppl.Program.of(_joint_weight, (program,)))


def _joint_weight(program):
    value, result = program.run(WeighChoices())
    return ppl.Particle(value, result.total)


# --- populations ------------------------------------------------------------------------------------------------------


def spawn_unweighted(n):
    """Copies that keep the whole weight each."""

    def transform(representation):
        spawned = ppl.spawn(n)(representation)
        return _after(spawned, _times, number=float(n))

    return transform


def spawn_one_draw(n):
    """`n` copies, of which all but the first weigh nothing: neither `1/n` each nor the whole in one."""
    return lambda representation: _after(ppl.spawn(n)(representation), _only_first)


def _after(population, function, **static):
    return ppl.Population(ppl.Program.of(function, (population.program,), static), population.n)


def _times(program, number):
    particles = ppl.sample("before", program)
    return particles._replace(log_weight=particles.log_weight + jnp.log(number))


def _only_first(program):
    particles = ppl.sample("before", program)
    first = jnp.arange(particles.log_weight.shape[0]) == 0
    return particles._replace(log_weight=jnp.where(first, particles.log_weight, -jnp.inf))


def resample_unweighted(scheme):
    """Ancestors uniform; the weights become the mean."""
    return lambda population: _after(population, _resampled, scheme=scheme, uniform=True)


def resample_keeping_weights(scheme):
    """Ancestors in proportion, and their weights go along: counted twice."""
    return lambda population: _after(population, _resampled, scheme=scheme, weights="kept")


def resample_to_one(scheme):
    """Ancestors in proportion; weights become 1/n: the evidence is lost."""
    return lambda population: _after(population, _resampled, scheme=scheme, weights="one")


def resample_biased_towards_first(scheme):
    """Ancestors in proportion to a softened weight."""
    return lambda population: _after(population, _resampled, scheme=scheme, power=0.5)


def _resampled(program, scheme, uniform=False, weights="mean", power=1.0):
    return _resampled_particles(ppl.sample("before", program), scheme, uniform, weights, power)


def _resampled_particles(particles, scheme, uniform=False, weights="mean", power=1.0):
    n = particles.log_weight.shape[0]
    logits = jnp.zeros(n) if uniform else power * particles.log_weight
    ancestors = ppl.sample("ancestors", Ancestors(logits, n, scheme))
    value = jax.tree.map(lambda x: x[ancestors], particles.value)
    mean = jnp.broadcast_to(log_sum_exp(particles.log_weight) - jnp.log(n), (n,))
    after = {"mean": mean, "kept": particles.log_weight[ancestors], "one": jnp.full((n,), -jnp.log(n))}
    return ppl.Particle(value, after[weights])


def adaptive_forgetting(scheme, threshold):
    """Adaptive resampling that levels the weights also where it does not resample."""
    return lambda population: _after(population, _adaptive, scheme=scheme, threshold=threshold)


def _adaptive(program, scheme, threshold):
    particles = ppl.sample("before", program)
    n = particles.log_weight.shape[0]
    mean = jnp.broadcast_to(log_sum_exp(particles.log_weight) - jnp.log(n), (n,))
    poor = effective_sample_size(particles.log_weight) < threshold * n
    return lax.cond(poor, lambda p: _resampled_particles(p, scheme), lambda p: p._replace(log_weight=mean), particles)


def proper_without_sum(population):
    """One particle in proportion, with its own weight."""
    return ppl.Weighted(ppl.Program.of(_one, (population.program,), {"sum_weights": False}))


def proper_uniform(population):
    """One particle picked uniformly, with the total weight."""
    return ppl.Weighted(ppl.Program.of(_one, (population.program,), {"uniform": True}))


def _one(program, sum_weights=True, uniform=False):
    particles = ppl.sample("before", program)
    logits = jnp.zeros_like(particles.log_weight) if uniform else jnp.maximum(particles.log_weight, -1e6)
    index = ppl.sample("pick", dist.Categorical(logits=logits))
    total = log_sum_exp(particles.log_weight) if sum_weights else particles.log_weight[index]
    return ppl.Particle(jax.tree.map(lambda x: x[index], particles.value), total)


def self_normalise(population):
    """NOT valid: weights that sum to one, the evidence forgotten."""
    return _after(population, _normalised)


def _normalised(program):
    particles = ppl.sample("before", program)
    total = log_sum_exp(particles.log_weight)
    safe = jnp.where(jnp.isfinite(total), total, 0.0)
    return particles._replace(log_weight=particles.log_weight - safe)


def naive_normalise(population):
    """Divides by the total also where it is zero: NaN."""
    return _after(population, _naively_normalised)


def _naively_normalised(program):
    particles = ppl.sample("before", program)
    total = jax.nn.logsumexp(particles.log_weight)
    return particles._replace(log_weight=particles.log_weight - total + total)


# --- suspended runs ---------------------------------------------------------------------------------------------------


def double(layer):
    """Twice the measure: not valid, but it counts the layers it is applied to."""
    program = ppl.Program.of(_times, (layer.program,), {"number": 2.0})
    return replace(layer, program=program)


def triple(layer):
    """Three times the measure."""
    program = ppl.Program.of(_times, (layer.program,), {"number": 3.0})
    return replace(layer, program=program)


def advance_multiplying(suspended):
    """A yield that multiplies: each advance doubles the weights."""
    after = ppl.advance()(suspended)
    return after if suspended.finished else replace(after, layer=double(after.layer))


def advance_multiplying_at_the_end(suspended):
    """Right until the end; then each further advance doubles."""
    if not suspended.finished:
        return ppl.advance()(suspended)
    return replace(suspended, layer=double(suspended.layer))


def advance_skipping(suspended):
    """Loses the weight of the stage that it runs."""
    after = ppl.advance()(suspended)
    program = ppl.Program.of(_old_weights, (after.layer.program,))
    return replace(after, layer=replace(after.layer, program=program))


def _old_weights(program):
    particles = ppl.sample("before", program)
    mean = log_sum_exp(particles.log_weight.reshape(-1)) - jnp.log(particles.log_weight.size)
    return particles._replace(log_weight=jnp.full_like(particles.log_weight, 0.0 * mean))


def hoist_dropping(transformer):
    """Forgets the transformations that were hoisted before."""
    return lambda suspended: ppl.hoist(transformer)(replace(suspended, hooks=()))


def hoist_once(transformer):
    """Only the layer at hand."""
    return ppl.hoist_first(transformer)


def smc_with(resampler, n, steps):
    """Sequential Monte Carlo with another resampler."""
    step = ppl.compose(ppl.advance(), ppl.hoist_first(resampler))
    return ppl.compose(ppl.finish(), *[step] * steps, ppl.hoist_first(ppl.spawn(n)))
