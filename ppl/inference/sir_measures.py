"""The two measures of SIR. Each is three programs: a draw with its weight, an estimate, and the explicit form.

Marginal on x, auxiliary u, proposal r (particles i = 1..n, w_i = p(u_i, x) / r(u_i | x), estimate = mean of w):
    weighted   (u_1, x) ~ p is kept as a particle, the others from r
    estimate   all from r
    explicit   as weighted, times estimate / w_1

Normalised law, proposal r (w_i = p(x_i) / r(x_i), P(j) = w_j / sum of w, estimate = n P(x) r(x) = p(x) / mean of w):
    weighted   n proposals, one picked in proportion
    estimate   x is a particle, the others from r
    explicit   x ~ r, the others from r, times n P(x)

Law 41: over the auxiliary choices E[estimate] = p(x), and E[1 / weight | x] = 1 / p(x). Where p and r are estimated
themselves, w is the ratio of their estimates, each made in the direction of the draw.
"""

from abc import ABC, abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import Categorical

from ppl.errors import MeasureError
from ppl.inference.sir_particles import (
    Particle,
    free_sites,
    others,
    proposed,
    retained,
    with_first,
)
from ppl.inference.sir_proposal import Proposal
from ppl.numerics.weights import has_mass, log_mean_exp
from ppl.semantics import choices as ch
from ppl.semantics.binding import bind_sample
from ppl.semantics.estimated import refuse_density
from ppl.semantics.language import factor
from ppl.semantics.opening import Opens, minus
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.semantics.rewrites import placed
from ppl.semantics.site import WEIGHING, Site, Source, user_source


class _SIRMeasure(ABC):
    """What both measures do with their programs."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Which measure it is, for messages."""

    @abstractmethod
    def weighted(self) -> Program:
        """A program with value (choices, log weight), E[1 / w | x] = 1 / p(x)."""

    @abstractmethod
    def estimate(self, value: Choices) -> Program:
        """A program with value log weight, E[w] = p(x)."""

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Choices:
        """Draw the choices."""
        return self.weighted().sample(key, sample_shape)[0]

    def random_weighted(self, key: Any) -> tuple[Choices, Any]:
        """A draw, and the log of a weight with E[1 / w | x] = 1 / p(x) (nats)."""
        return self.weighted().sample(key)

    def estimate_log_density(self, key: Any, value: Choices) -> Any:
        """The log of an estimate with E[w] = p(x) (nats); its own mean is a lower bound of log p(x)."""
        return self.estimate(value).sample(key)

    def log_prob(self, value: Choices) -> Any:
        """Not to be told.

        Raises:
            MeasureError: always.
        """
        del value
        refuse_density([Site(self.label, "latent", user_source())])


@jax.tree_util.register_pytree_node_class
class SIRMarginal(_SIRMeasure):
    """The marginal of a program on some addresses, its density estimated with n particles."""

    def __init__(self, program: Program, proposal: Proposal | None, kept: tuple[str, ...], n: int) -> None:
        self.program = program
        self.proposal = proposal
        self.kept = kept
        self.n = n

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        """Programs are the children."""
        return (self.program, self.proposal), (self.kept, self.n)

    @classmethod
    def tree_unflatten(cls, static: Any, children: tuple[Any, ...]) -> "SIRMarginal":
        """Rebuild from leaves."""
        return cls(*children, *static)

    @property
    def label(self) -> str:
        """The kept addresses."""
        return str(list(self.kept))

    def value_like(self) -> Choices:
        """Shapes and dtypes of the kept choices."""
        return ch.values_like(self.program.staged, self.kept)

    def weighted(self) -> Program:
        """A draw of the kept choices with an estimate of their density, E[1 / w | x] = 1 / p(x)."""
        refuse_weighing(self.program)
        return Program.of(_marginal_weighted, (self,))

    def estimate(self, value: Choices) -> Program:
        """An estimate of the density of the kept choices, E[w] = p(x); observations of the program count."""
        return Program.of(_marginal_estimate, (self, value))

    def explicit(self) -> Program:
        """The program over kept and auxiliary choices whose marginal on the kept ones is p(x)."""
        return Program.of(_marginal_explicit, (self,))


def _from_program(measure: SIRMarginal) -> tuple[Choices, Particle, Particle]:
    """A run of the program, kept as the first of n particles."""
    program, proposal = measure.program, measure.proposal
    covered = () if proposal is None else proposal.covered
    _, result = program.run(Opens(free_sites(program, (*measure.kept, *covered))))
    run = ch.flatten(result.writes, program.staged, ("latent",))
    kept = {a: run[a] for a in measure.kept}
    first = retained(program, proposal, kept, run, result.total)
    rest = None if measure.n == 1 else others(program, proposal, kept, measure.n - 1, "others")
    return kept, first, with_first(first, rest)


def _marginal_weighted(measure: SIRMarginal) -> tuple[Choices, Any]:
    kept, _, particles = _from_program(measure)
    return kept, log_mean_exp(particles.log_weight)


def _marginal_estimate(measure: SIRMarginal, value: Choices) -> Any:
    particles = others(measure.program, measure.proposal, value, measure.n, "particles")
    return log_mean_exp(particles.log_weight)


def _marginal_explicit(measure: SIRMarginal) -> Choices:
    kept, first, particles = _from_program(measure)
    factor("particles", minus(log_mean_exp(particles.log_weight), first.log_weight))
    return kept


def refuse_weighing(program: Program) -> None:
    """Raise where a program's own draws do not follow its measure."""
    weighing = [a for a, info in program.sites.items() if info.kind in WEIGHING]
    if weighing:
        raise MeasureError(
            f"A marginal of the program {program.name!r} cannot be drawn from: {weighing} weigh its traces.\n"
            "Expected: a program without observations or factors.\n"
            "Fix: program.normalize(ppl.SIR(n)).marginal(...) draws from the posterior, nearly; estimates of the "
            "density, and the marginal as an observation, work as it is."
        )


# --- normalised programs ----------------------------------------------------------------------------------------------


@jax.tree_util.register_pytree_node_class
class SIRNormalized(_SIRMeasure):
    """The law of one of n proposals picked in proportion to its importance weight; its density is estimated."""

    def __init__(self, program: Program, proposal: Proposal | None, n: int, grad: Any) -> None:
        self.program = program
        self.proposal = proposal
        self.n = n
        self.grad = grad

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        """Programs are the children."""
        return (self.program, self.proposal), (self.n, self.grad)

    @classmethod
    def tree_unflatten(cls, static: Any, children: tuple[Any, ...]) -> "SIRNormalized":
        """Rebuild from leaves."""
        return cls(*children, *static)

    @property
    def label(self) -> str:
        """The name of the program."""
        return self.program.name

    def value_like(self) -> Choices:
        """Shapes and dtypes of the choices."""
        staged = self.program.staged
        return ch.values_like(staged, tuple(ch.latent_infos(staged)))

    def weighted(self) -> Program:
        """One of n proposals with an estimate of its density, E[1 / w | x] = 1 / q_n(x)."""
        return Program.of(_normalized_weighted, (self, user_source()))

    def estimate(self, value: Choices) -> Program:
        """An estimate of the density of the choices, E[w] = q_n(x)."""
        return Program.of(_normalized_estimate, (self, value))

    def explicit(self) -> Program:
        """The program over the choices and n - 1 other proposals whose marginal on the choices is q_n."""
        return Program.of(_normalized_explicit, (self,))


def _normalized_weighted(measure: SIRNormalized, source: Source) -> tuple[Choices, Any]:
    particles = others(measure.program, measure.proposal, {}, measure.n, "particles")
    site = placed(Site("index", "latent", source, (), measure.grad))
    index = bind_sample(site, Categorical(logits=_logits(particles)))
    log_density = _log_density(jax.tree.map(lambda x: x[index], particles), particles, index)
    return {a: x[index] for a, x in particles.choices.items()}, log_density


def _logits(particles: Particle) -> Any:
    """Log weights; where none is positive, all particles are alike."""
    alive = has_mass(particles.log_weight)
    return jnp.where(alive, particles.log_weight, 0.0)


def _log_density(one: Particle, particles: Particle, index: Any) -> Any:
    """Log of n P(index) r(x), which is p(x) over the mean weight."""
    log_picked = jax.nn.log_softmax(_logits(particles))[index]
    possible = one.log_proposal > -jnp.inf
    return jnp.where(possible, one.log_proposal + log_picked + jnp.log(len(particles.log_weight)), -jnp.inf)


def _normalized_estimate(measure: SIRNormalized, value: Choices) -> Any:
    first = _given(measure, value)
    particles = _with_others(measure, first)
    return _log_density(first, particles, 0)


def _given(measure: SIRNormalized, value: Choices) -> Particle:
    """The particle at given choices."""
    program, proposal = measure.program, measure.proposal
    covered = () if proposal is None else proposal.covered
    given = ch.checked(value, program.staged, "score", complete=True)
    _, result = program.run(Opens(free_sites(program, covered)), given)
    return retained(program, proposal, {}, value, result.total)


def _with_others(measure: SIRNormalized, first: Particle) -> Particle:
    if measure.n == 1:
        return with_first(first, None)
    return with_first(first, others(measure.program, measure.proposal, {}, measure.n - 1, "rest"))


def _normalized_explicit(measure: SIRNormalized) -> Choices:
    first = proposed(measure.program, measure.proposal, {}, within="")
    particles = _with_others(measure, first)
    factor("particles", _log_density(first, particles, 0) - first.log_proposal)
    return first.choices
