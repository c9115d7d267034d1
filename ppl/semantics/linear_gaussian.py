r"""Linear-Gaussian programs as one joint Gaussian: what can be integrated out in closed form.

Every site of such a program is $x = m + L \epsilon$ with m affine in the earlier values and L constant, so that
everything is affine in the noise: choices, return value and residuals r = observed - predicted are $a + J \epsilon$,
$\epsilon \sim N(0, I)$. With $S = J_r J_r^T$,

    log evidence = log N(0; a_r, S),   x | r = 0 ~ N(a_x - J_x J_r^T S^{-1} a_r, J_x (I - J_r^T S^{-1} J_r) J_x^T).

That the program *is* affine is read off the jaxpr of its derivative, which must not depend on the noise: an exact
check, not one at some points. The matrices are dense: meant for the few choices of a step, not for long series.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ppl.errors import MeasureError
from ppl.semantics import choices as ch
from ppl.semantics import jaxpr as jp
from ppl.semantics.dataflow import outputs_that_move
from ppl.semantics.handlers import Scoring
from ppl.semantics.protocol import Choices, Outcome, Position, SampleSite

JITTER = 1e-12
"""Added to the variance of residuals, in proportion, so that exact observations have a factor."""


class Gaussian(NamedTuple):
    """A Gaussian law of a flat vector, and the evidence of what it is conditioned on.

    Attributes:
        mean: Its mean.
        factor: A square root of its covariance, `factor @ factor.T`.
        log_evidence: Log density of the observations, and factors (nats).
        unflatten: From a flat vector to (free choices by address, return value).
    """

    mean: Float[Array, "size"]
    factor: Float[Array, "size noise"]
    log_evidence: Float[Array, ""]
    unflatten: Callable[[Any], Any]


class _Noise(Scoring):
    """Build every site from standard noise. Writes free choices, and residuals of the others. Factors are the total."""

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Location plus scale times noise."""
        del where
        noise, given = read
        value = _located(node, node.measure, noise)
        known = node.observed if given is None else given
        if known is None:
            return Outcome(value, self.zero(), value)
        return Outcome(known, self.zero(), known - value)


def joint(program: Any, given: Choices) -> Gaussian:
    """The law of a program's free choices and return value, given its observations and some of its choices.

    Args:
        program: A linear-Gaussian program.
        given: Values of latent choices by address; they count as observations.

    Raises:
        MeasureError: a site is not Gaussian, or something is not affine; with the address and the line.
    """
    staged = program.staged
    known = ch.checked(given, staged, "score")
    sites = {a: e for a, e in staged.table.items() if e.site.kind in ("latent", "observed", "fixed")}
    noise = {a: jnp.zeros(staged.infos[a].shape) for a in sites}
    flat, shaped = ravel_pytree(noise)
    free = [a for a, e in sites.items() if e.site.kind == "latent" and a not in known]

    def run(vector: Any) -> Any:
        value, result = program.run(_Noise(), {a: (e, known.get(a)) for a, e in shaped(vector).items()})
        residuals = [result.writes[a].reshape(-1) for a in sites if a not in free]
        return ({a: result.writes[a] for a in free}, value), jnp.concatenate([jnp.zeros(0), *residuals]), result.total

    like = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, flat)[0])
    empty, unflatten = ravel_pytree(like)

    def parts(vector: Any) -> Any:
        wanted, residuals, total = run(vector)
        return ravel_pytree(wanted)[0].astype(empty.dtype), residuals, total

    _refuse_curved(program, parts, flat)
    (mean, residuals, total), (slope, residual_slope, _) = parts(flat), jax.jacfwd(parts)(flat)
    mean, factor, evidence = _conditioned(mean, slope, residuals, residual_slope)
    return Gaussian(mean, factor, evidence + total, unflatten)


def _conditioned(mean: Any, slope: Any, residuals: Any, residual_slope: Any) -> tuple[Any, Any, Any]:
    """The law of a vector given that the residuals are zero; its square root keeps the covariance definite."""
    if residuals.size == 0:
        return mean, slope, jnp.zeros(())
    gram = residual_slope @ residual_slope.T
    gram = gram + JITTER * jnp.diag(jnp.diag(gram))
    root = jnp.linalg.cholesky(gram)
    evidence = dist.MultivariateNormal(residuals, scale_tril=root).log_prob(jnp.zeros_like(residuals))
    gain = jax.scipy.linalg.cho_solve((root, True), residual_slope @ slope.T).T
    return mean - gain @ residuals, slope - gain @ residual_slope, evidence


def _located(node: SampleSite, measure: Any, noise: Any) -> Any:
    """A Gaussian measure's value at a noise of its value's shape."""
    if isinstance(measure, dist.Independent):
        return _located(node, measure.base_dist, noise)
    if isinstance(measure, dist.ExpandedDistribution):
        return _located(node, measure.base_dist, noise)
    if isinstance(measure, dist.Normal):
        return measure.loc + measure.scale * noise
    if isinstance(measure, dist.MultivariateNormal):
        return measure.loc + jnp.squeeze(measure.scale_tril @ noise[..., None], -1)
    raise MeasureError(
        f"The site {node.address!r} ({node.site.source}) has the measure {node.signature.name}, which is not "
        "Gaussian, in a program that was to be integrated by ppl.Kalman().\n"
        "Expected: dist.Normal or dist.MultivariateNormal, means affine in earlier choices, constant scales.\n"
        "Fix: draw the choice outside that program, in the particle."
    )


def _refuse_curved(program: Any, parts: Callable[[Any], Any], flat: Any) -> None:
    """Raise where the derivative depends on the noise, or a factor does."""
    code = jp.stage(lambda vector: jax.jacfwd(parts)(vector), flat).code
    total = jp.stage(lambda vector: parts(vector)[2], flat).code
    if any(outputs_that_move(code.jaxpr)) or any(outputs_that_move(total.jaxpr)):
        infos = program.sites.values()
        names = ", ".join(f"{i.address!r} ({i.source})" for i in infos if i.kind in ("latent", "observed", "factor"))
        raise MeasureError(
            f"The program {program.name!r} is not linear-Gaussian: a mean is not affine in the earlier choices, or a "
            f"scale, branch or factor depends on them.\nIts sites: {names}.\n"
            "Expected: means that are sums of constant multiples of earlier choices, constant scales, no factor that "
            "depends on a choice.\nFix: linearise it yourself, or draw the choice that enters nonlinearly outside."
        )


# --- measures ---------------------------------------------------------------------------------------------------------


@jax.tree_util.register_pytree_node_class
class JointGaussian:
    """The law of some choices of a linear-Gaussian program given its observations, times a mass: dicts by address.

    `posterior` divides by the mass.
    """

    def __init__(self, program: Any, kept: tuple[str, ...], *, posterior: bool = False) -> None:
        self.program = program
        self.kept = kept
        self.posterior = posterior

    def tree_flatten(self) -> tuple[tuple[Any], Any]:
        """The program is the child."""
        return (self.program,), (self.kept, self.posterior)

    @classmethod
    def tree_unflatten(cls, static: Any, children: tuple[Any]) -> "JointGaussian":
        """Rebuild from leaves."""
        return cls(children[0], static[0], posterior=static[1])

    def value_like(self) -> dict[str, Any]:
        """Shapes and dtypes of the kept choices."""
        return ch.values_like(self.program.staged, self.kept)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> dict[str, Any]:
        """Exact draws from the posterior."""
        law = joint(self.program, {})
        noise = jax.random.normal(key, (*sample_shape, law.factor.shape[1]), law.mean.dtype)
        unflatten = partial(self._kept, law)
        for _ in sample_shape:
            unflatten = jax.vmap(unflatten)
        return unflatten(noise)

    def _kept(self, law: Gaussian, noise: Any) -> dict[str, Any]:
        choices, _ = law.unflatten(law.mean + law.factor @ noise)
        return {a: choices[a] for a in self.kept}

    def log_prob(self, value: dict[str, Any]) -> Any:
        """Log density of the kept choices with all others integrated out (nats)."""
        density = joint(self.program, {a: value[a] for a in self.kept}).log_evidence
        return density - joint(self.program, {}).log_evidence if self.posterior else density
