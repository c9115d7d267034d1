"""Particle independent Metropolis-Hastings: whole SMC runs as proposals, accepted with min(1, Z' / Z).

Law: as PMMH without parameters (`ppl.inference.pmmh`): a path of the run becomes the choices. It works on programs of
any form, and tells how far an SMC run is from the posterior: it accepts nearly always where the evidence hardly varies.

Reference: Andrieu, Doucet, Holenstein, "Particle Markov chain Monte Carlo methods", JRSS B 72 (2010), section 2.4.1.
"""

from ppl.inference.method import positive
from ppl.inference.pmmh import PMMHMove
from ppl.inference.static_parameters import Walk
from ppl.semantics.blocks import resample


def pimh(particles: int = 100, scheme: str = "systematic", threshold: float | None = None) -> PMMHMove:
    """All choices by an SMC run of their own: independence MH on runs.

    Args:
        particles: Number of particles.
        scheme: The resampling scheme; on plain states `"multinomial"`, `"systematic"` or `"killing"`.
        threshold: Resample where the effective sample size is below this fraction; on plain states it must be None.

    Records `accepted`, `acceptance` and `log_density`, the log evidence of the run.

    Examples:
        >>> import jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> from ppl.inference import State
        >>> @ppl.model
        ... def level(y):
        ...     ppl.sample("y", dist.Normal(ppl.sample("x", dist.Normal(0.0, 1.0)), 1.0), obs=y)
        >>> step = pimh(10)(level(jnp.array(1.0)))(State({"x": jnp.array(0.0)}, {}))
        >>> step.sample(0).choices["x"].shape
        ()
    """
    positive("particles", particles)
    resample(scheme, threshold)
    return PMMHMove(particles, scheme, threshold, (), None, Walk())
