"""VIMCO: the importance-weighted bound, with a leave-one-out control variate for each particle's choices.

    gradient:  sum_j (L - L_-j) d log q(b_j)  +  dL,      L = log mean_i w_i

where b_j are the score-function choices of particle j, and L_-j puts the geometric mean of the other weights in the
place of w_j: it does not depend on b_j, so that the gradient stays unbiased. Reparameterised choices keep their path
derivatives. Mnih and Rezende, *Variational inference for Monte Carlo objectives* (2016), eq. 8-10.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

import ppl.vi.pairing as pairs
from ppl.semantics import choices as ch
from ppl.semantics.binding import bind_sample
from ppl.semantics.lanes import vmap
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Handler, Outcome, Position, SampleSite
from ppl.semantics.rewrites import placed
from ppl.semantics.scoring import total_log_prob
from ppl.semantics.site import Site
from ppl.vi.language import log_density
from ppl.vi.objective import Objective
from ppl.vi.objectives import log_mean_exp
from ppl.vi.pathwise import Noise
from ppl.vi.resolution import choices_in, default
from ppl.vi.score import Score
from ppl.vi.strategy import with_tangent


def vimco(model: Program | pairs.Maker, guide: pairs.Maker, particles: int) -> Objective:
    """The importance-weighted bound with leave-one-out control variates for score-function choices.

    Its expected value and gradient are those of `vi.iwelbo`.

    Args:
        model: A program, or a function `(params, *args) -> program`.
        guide: A function `(params, *args) -> program` over the model's latent addresses.
        particles: How many draws of the guide one estimate takes, at least 2.

    Returns:
        An objective to be maximised.

    Raises:
        ValueError: fewer than 2 particles.
    """
    if particles < 2:
        raise ValueError(f"vi.vimco was given {particles} particles.\nExpected: at least 2; one alone is vi.elbo.")
    return Objective(_vimco, bound=(model, guide, particles), maximize=True)


def _vimco(model: Any, guide: Any, particles: int, params: Any, *args: Any) -> Any:
    target, proposal = pairs.paired(model, guide, params, args)
    subsets = pairs.missing_subsets(target, proposal)

    def particle() -> Any:
        choices, log_q, slope = _simulated(proposal)
        return log_density(target, {**choices, **subsets}) - log_q, slope

    log_weights, slopes = vmap(particle, axis_size=particles)()
    bound = log_mean_exp(log_weights)
    signal = lax.stop_gradient(bound - left_out(log_weights))
    return with_tangent(bound, jnp.ones_like(bound), signal @ slopes)


def left_out(log_weights: Any) -> Any:
    """The bound with one weight at a time replaced by the geometric mean of the others, shape `(particles,)`."""
    count = len(log_weights)
    others = (jnp.sum(log_weights) - log_weights) / (count - 1)
    replaced = jnp.where(jnp.eye(count, dtype=bool), others[:, None], log_weights[None, :])
    return log_mean_exp(replaced.T)


class _Sums(NamedTuple):
    """Log densities (nats): of all choices, and of the score-function choices."""

    log_density: Any
    slope: Any


class _Simulates(Handler):
    """Binds the choices again, those by the score function held fixed; its total is `_Sums`. Writes the choices."""

    emits = True

    def __init__(self, by_score: Mapping[str, bool]) -> None:
        self.by_score = by_score

    def zero(self) -> _Sums:
        """Zero nats."""
        return _sums(0.0)

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """The choice as a site of the objective."""
        del read, where
        if node.observed is not None:
            return Outcome(node.observed, _sums(total_log_prob(node.measure, node.observed)))
        by_score = self.by_score[node.address]
        site = placed(node.site)
        value = bind_sample(site._replace(grad=Noise()) if by_score else site, node.measure)
        return Outcome(value, _sums(total_log_prob(node.measure, value), by_score=by_score), value)

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """A factor adds to the log density."""
        del site, where
        return Outcome(None, _sums(jnp.sum(log_weight)))


def _sums(log_density: Any, *, by_score: bool = False) -> _Sums:
    total = jnp.asarray(log_density, jnp.result_type(float))
    return _Sums(total, total if by_score else jnp.zeros_like(total))


def _simulated(program: Program) -> tuple[Choices, Any, Any]:
    """Draw a program inside an objective: its choices, their log density, that of the score-function ones."""
    by_score = {}
    for choice in choices_in(program.jaxpr, inside=True):
        site = choice.equation.params["site"]
        by_score[site.address] = isinstance(site.grad if site.grad is not None else default(choice), Score)
    staged = program.staged
    _, result = program.run(_Simulates(by_score))
    return ch.flatten(result.writes, staged, ("latent", "fixed")), *result.total
