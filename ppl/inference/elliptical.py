r"""Elliptical slice sampling, as a kernel: for choices with Gaussian priors; no settings, no gradient, no rejection.

Each choice is written as $x = m + L z$, z standard normal, where the mean m and the factor L of its prior may depend on
the other choices. In z the prior is Normal(0, I) whatever m and L are, and everything else that is scored
(observations, factors, fixed choices) is the likelihood. Draw a level below the log likelihood and noise
$v \sim$ Normal(0, I); move on the ellipse $z \cos t + v \sin t$ to a point above the level, shrinking the bracket of
angles towards t = 0. Law: the kernel leaves the program invariant. For priors that do not depend on the choices it is
the algorithm of the paper (an ellipse stays an ellipse under x = m + L z). After 100 points the state stays, which
keeps the balance.

Reference: Murray, Adams, MacKay, "Elliptical slice sampling", AISTATS (2010), figure 2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree

from ppl.errors import MeasureError
from ppl.inference.kernels import Kernel, State
from ppl.inference.slice_sampling import Bracket, number_or_nothing, seeded_key, shrunk
from ppl.semantics import choices as ch
from ppl.semantics.handlers import Scoring
from ppl.semantics.language import deterministic, sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Handler, Outcome, Position, SampleSite
from ppl.semantics.scoring import total_log_prob


class Affine(NamedTuple):
    """A Gaussian as x = mean + factor z: the factor a scale by element, or a lower triangular matrix."""

    mean: Any
    factor: Any
    triangular: bool

    def value(self, noise: Any) -> Any:
        """X of z."""
        mean, factor = self._fitted(noise)
        return mean + (jnp.squeeze(factor @ noise[..., None], -1) if self.triangular else factor * noise)

    def noise(self, value: Any) -> Any:
        """Z of x."""
        mean, factor = self._fitted(value)
        off = value - mean
        return _solved(factor, off) if self.triangular else off / factor

    def _fitted(self, like: Any) -> tuple[Any, Any]:
        """Mean and factor for every element of an expanded distribution."""
        shape = jnp.shape(like)
        factor_shape = (*shape, shape[-1]) if self.triangular else shape
        return jnp.broadcast_to(self.mean, shape), jnp.broadcast_to(self.factor, factor_shape)


def gaussian(measure: Any) -> Affine | None:
    """A Gaussian measure in affine form; None for any other.

    Args:
        measure: `Normal` and `MultivariateNormal` are known, and expanded and independent ones of them, in plates too.

    Examples:
        >>> float(gaussian(dist.Normal(1.0, 2.0)).value(0.5))
        2.0
        >>> gaussian(dist.Gamma(1.0, 2.0)) is None
        True
    """
    if type(measure) in (dist.ExpandedDistribution, dist.Independent):
        return gaussian(measure.base_dist)
    if type(measure) is dist.Normal:
        return Affine(measure.loc, measure.scale, triangular=False)
    if type(measure) is dist.MultivariateNormal:
        return Affine(measure.loc, measure.scale_tril, triangular=True)
    return None


def _solved(lower: Any, vector: Any) -> Any:
    return jnp.squeeze(jax.lax.linalg.triangular_solve(lower, vector[..., None], left_side=True, lower=True), -1)


class Whiten(Handler):
    """Read the choices and write their noise."""

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Solve for the noise; go on with the choice."""
        del where
        if node.observed is not None:
            return Outcome(node.observed, ())
        return Outcome(read, (), _affine(node).noise(read))


class Colour(Scoring):
    """Read the noise, write the choices; the total is the log likelihood: all that is scored but the priors."""

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """The choice that the noise makes, or the score of an observation."""
        del where
        if node.observed is not None:
            return Outcome(node.observed, total_log_prob(node.measure, node.observed))
        value = _affine(node).value(read).astype(node.signature.avals[0].dtype)
        return Outcome(value, self.zero(), value)


def _affine(node: SampleSite) -> Affine:
    found = gaussian(node.measure)
    if found is None:
        raise MeasureError(
            f"The choice {node.address!r} at {node.site.source} is drawn from {node.signature.name}, which is not "
            "Gaussian, so that elliptical slice sampling cannot move it.\n"
            "Expected: Normal or MultivariateNormal.\n"
            "Fix: move the Gaussian choices alone, ppl.inference.on([addresses], kernel=elliptical_slice()), and the "
            "others with another kernel, such as slice_sampling()."
        )
    return found


@dataclass(frozen=True)
class EllipticalSlice:
    """What `elliptical_slice` makes: a maker of kernels."""

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        staged = program.staged
        ch.refuse_unbounded(staged, "kernel")
        infos = ch.latent_infos(staged)
        masked = [f"{info.address!r} ({info.source})" for info in infos.values() if info.masked]
        if masked:
            raise MeasureError(
                f"The choices {', '.join(masked)} of {program.name!r} lie inside a branch, so that their number "
                "varies and there is no ellipse to move on.\n"
                "Expected: choices that every run makes.\n"
                "Fix: draw them outside the branch, or move them with ppl.inference.trace_mh_kernel."
            )
        jax.eval_shape(partial(whitened, program), ch.values_like(staged, list(infos)))
        return partial(_kernel, program)


def elliptical_slice() -> EllipticalSlice:
    """Elliptical slice sampling of all choices of a program, which must have Gaussian priors.

    Use it on a block of a program with `ppl.inference.on`. Means and scales may depend on any choices.

    Returns:
        A maker of kernels. Each records `accepted` (whether the state moved), `evaluations` of the likelihood, and
        `log_likelihood` (nats).

    Raises:
        MeasureError: naming the choice whose prior is not Gaussian, or that is not always made.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def height():
        ...     x = ppl.sample("x", dist.Normal(170.0, 10.0))
        ...     ppl.sample("y", dist.Normal(x, 3.0), obs=182.0)
        >>> step = elliptical_slice()(height())(State({"x": jnp.array(175.0)}, {}))
        >>> sorted(step.sites)
        ['accepted', 'ellipse', 'evaluations', 'log_likelihood', 'seed']
    """
    return EllipticalSlice()


def _kernel(program: Program, state: State) -> Program:
    return Program.of(step, (program, state))


def whitened(program: Program, choices: Choices) -> Choices:
    """The noise that makes the given choices, by address."""
    result = program.run(Whiten(), ch.nest(choices, program.staged))[1]
    return ch.flatten(result.writes, program.staged, ("latent",))


def coloured(program: Program, noise: Choices) -> tuple[Choices, Any]:
    """The choices that noise makes, by address, and their log likelihood (nats, minus infinity for NaN)."""
    result = program.run(Colour(), ch.nest(noise, program.staged))[1]
    return ch.flatten(result.writes, program.staged, ("latent",)), number_or_nothing(result.total)


def step(program: Program, state: State, whiten: Callable[[Program, Choices], Choices] = whitened) -> State:
    """The body of the kernel. Another `whiten` is a wrong kernel, for tests."""
    noise, unravel = ravel_pytree(whiten(program, state.choices))
    other = sample("ellipse", dist.Normal(jnp.zeros_like(noise), 1.0).to_event(1))
    level_key, angle_key, shrink_key = jax.random.split(seeded_key("seed"), 3)

    def place(angle: Any) -> Any:
        return noise * jnp.cos(angle) + other * jnp.sin(angle)

    def log_likelihood(vector: Any) -> Any:
        return coloured(program, unravel(vector))[1]

    start = log_likelihood(noise)
    level = start - jax.random.exponential(level_key)
    angle = jax.random.uniform(angle_key, maxval=2.0 * jnp.pi)
    bracket = Bracket(angle - 2.0 * jnp.pi, angle, 0.0, start, 0)
    found = shrunk(shrink_key, bracket, place, log_likelihood, lambda value: value >= level)
    accepted = found.point != 0.0
    choices = coloured(program, unravel(place(found.point)))[0]
    deterministic("accepted", accepted)
    deterministic("log_likelihood", found.log_density)
    deterministic("evaluations", found.tried + 1)
    return State({a: jnp.where(accepted, choices[a], old) for a, old in state.choices.items()}, state.masks)
