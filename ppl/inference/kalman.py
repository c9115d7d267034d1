"""`ppl.Kalman`: exact inference where the program is linear and Gaussian."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from ppl.errors import MeasureError
from ppl.inference.method import CHAIN_SETTINGS, Settings, positive, refuse
from ppl.inference.population import replayed
from ppl.inference.posterior import Evidence, Posterior
from ppl.semantics import choices as ch
from ppl.semantics.linear_gaussian import JointGaussian, joint
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

ALONE = tuple(name for name in CHAIN_SETTINGS if name != "draws")
"""Settings that mean nothing to independent draws."""


@dataclass(frozen=True)
class Kalman:
    """Exact inference on programs whose sites are Gaussian with means affine in each other and constant scales.

    As a method of `ppl.infer` it gives independent draws of the posterior and the exact evidence; of
    `Program.marginal`, the marginal; of `Program.normalize`, the posterior; of `ppl.collapse`, the evidence as a factor
    and the law of the return value. The work is cubic in the number of scalar sites: one step, or a short series.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def mean(y):
        ...     mu = ppl.sample("mu", dist.Normal(0.0, 1.0))
        ...     ppl.sample("y", dist.Normal(mu, 0.5), obs=y)
        >>> posterior = ppl.infer(mean(1.5), ppl.Kalman(), key=0, draws=100)
        >>> round(posterior.log_evidence.estimate, 4)
        -1.9305
    """

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Draw from the posterior."""
        refuse(settings, ALONE, "ppl.Kalman", "Give the number of draws alone: ppl.infer(..., draws=1000).")
        count = 1000 if settings.draws is None else positive("draws", settings.draws)
        measure = self.normalized(program)
        choices = jax.jit(lambda m, k: m.sample(k, (count,)))(measure, key)
        log_evidence = float(jax.jit(lambda p: joint(p, {}).log_evidence)(program))
        runs = jax.tree.map(lambda x: x[None], replayed(program, choices, count))
        return Posterior(
            draws=runs.choices,
            values=runs.value,
            deterministic=runs.deterministic,
            log_evidence=Evidence(log_evidence, 0.0),
            program=program,
            method="Kalman",
        )

    def marginalize(self, program: Program, kept: tuple[str, ...]) -> JointGaussian:
        """The marginal measure on some addresses."""
        return JointGaussian(program, kept)

    def normalized(self, program: Program) -> JointGaussian:
        """The law of the choices given the observations."""
        return JointGaussian(program, tuple(ch.latent_infos(program.staged)), posterior=True)

    def collapsed(self, program: Program) -> tuple[Any, Any]:
        """The log evidence, and the law of the return value given the observations."""
        law = joint(program, {})
        (_, value), slopes = law.unflatten(law.mean), jax.vmap(law.unflatten, 1, -1)(law.factor)[1]
        if jnp.ndim(value) > 1 or jax.tree.structure(value) != jax.tree.structure(0):
            raise MeasureError(
                f"The program {program.name!r} returns {jax.tree.structure(value)} to ppl.collapse.\n"
                "Expected: a scalar or a vector, whose law is then a Normal or a MultivariateNormal."
            )
        if jnp.ndim(value) == 0:
            return law.log_evidence, dist.Normal(value, jnp.sqrt(jnp.sum(slopes**2)))
        return law.log_evidence, dist.MultivariateNormal(value, covariance_matrix=slopes @ slopes.T)
