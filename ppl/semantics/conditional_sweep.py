r"""Conditional SMC as a program: a sweep in which the first particle retains a path.

At every stage the first particle keeps its choices, and the ancestors of the others are drawn from what unconditional
resampling does *given* that the first place holds a copy of the first particle (`ConditionalAncestors`). At the end one
path is drawn in proportion to weight. Law: the path that comes out has the program's normalised measure, where the one
that goes in has it (Andrieu, Doucet, Holenstein, "Particle Markov chain Monte Carlo methods", JRSS B 72 (2010), theorem
5).

With ancestor sampling, the first place's ancestor is drawn as well, in proportion to weight times density of the
retained future (Lindsten, Jordan, Schon, "Particle Gibbs with ancestor sampling", JMLR 15 (2014), equation 13): the
retained path is joined to another past, so that its beginning moves even where few particles survive.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from numpyro.distributions import Categorical

from ppl.distributions.ancestors import ConditionalAncestors
from ppl.numerics.conditional_resampling import conditional_resampler
from ppl.numerics.weights import has_mass, log_sum_exp
from ppl.semantics.blocks import Transformer, spawn
from ppl.semantics.language import sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.semantics.representations import Particle, Population
from ppl.semantics.suspension import hoist_first, suspend
from ppl.semantics.sweeping import Sweep, swept

Backward = Literal["ancestor", "sampling"] | None
"""How the past of a retained path is drawn anew: on the way, after the sweep, or not."""


@dataclass(frozen=True)
class ConditionalResample:
    """Resampling given that the first place holds a copy of the first particle, or of the ancestor drawn for it.

    Each scheme's law is unchanged where particles are counted from another one on, and round. So the ancestor j of the
    first place becomes particle 0 by counting from it.
    """

    scheme: str

    def __call__(self, population: Population) -> Population:
        """Resample; the values are `Marked`."""
        return Population(Program.of(_resampled, (population.program,), {"scheme": self.scheme}), population.n)


def _resampled(program: Program, scheme: str) -> Particle:
    particles = sample("before", program)
    log_weight, n = particles.log_weight, particles.log_weight.shape[0]
    first = 0 if isinstance(particles.value.ahead, tuple) else _first(log_weight + particles.value.ahead)
    rolled = log_weight[(jnp.arange(n) + first) % n]
    ancestors = (sample("ancestors", ConditionalAncestors(rolled, n, scheme)) + first) % n
    mean = jnp.broadcast_to(log_sum_exp(log_weight) - jnp.log(n), (n,))
    log_weight = jnp.where(has_mass(log_weight), mean, log_weight)
    return Particle(jax.tree.map(lambda x: x[ancestors], particles.value), log_weight)


def _first(log_weights: jax.Array) -> jax.Array:
    """The ancestor of the retained path; its own where no particle leads to its future."""
    own = jnp.where(jnp.arange(log_weights.shape[0]) == 0, 0.0, -jnp.inf)
    return sample("ancestor", Categorical(logits=jnp.where(has_mass(log_weights), log_weights, own)))


def conditional_sweep(
    program: Program, choices: Choices, n: int, before: Transformer, *, backward: Backward = None
) -> Population:
    """`n` particles at the end of a sweep in which the first retained a path.

    Args:
        program: The program.
        choices: A value for each latent site, with the axis of time in loops.
        n: Number of particles.
        before: The transformation before each stage, which must keep the first particle in its place, such as
            `ConditionalResample(scheme)`.
        backward: `"ancestor"`: the transformation gets to see each particle's density of the retained future;
            `"sampling"`: where each particle stands is recorded, for `ppl.inference.backward_path`.

    Returns:
        The layer at the end; it records what `sweep` records.
    """
    start = hoist_first(spawn(n))(suspend(program)).layer
    ancestors, standing = backward == "ancestor", backward == "sampling"
    how = Sweep(before, (), Population, 0, ancestry=True, ancestor_sampling=ancestors, standing=standing)
    return Population(Program.of(swept, (start.program, program), {"how": how, "retained": choices}), n)


def conditional_resample(scheme: str = "systematic") -> ConditionalResample:
    """Resampling that keeps the first particle in the first place.

    Args:
        scheme: `"multinomial"`, `"systematic"` or `"killing"`.

    Raises:
        MeasureError: where there is no conditional scheme of this name.
    """
    conditional_resampler(scheme)
    return ConditionalResample(scheme)
