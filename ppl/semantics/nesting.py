"""`ppl.nested`: an algorithm inside a model. Where a program is sampled, sequential Monte Carlo may run in its place.

    nested(program, n) = the program of proper . smc n . suspend, its weight a factor

means what the program means (proper weighting), so that a model with it means what it meant before: the inner
particles only make its weights vary less. SMC on such a model is nested SMC; MCMC on it is pseudo-marginal. Naesseth,
Lindsten and Schoen, *Nested sequential Monte Carlo methods* (ICML 2015).
"""

from typing import Any

from ppl.semantics.blocks import compose, proper
from ppl.semantics.language import factor, sample
from ppl.semantics.program import Program
from ppl.semantics.representations import Weighted
from ppl.semantics.suspension import smc, suspend


def nested(program: Program, particles: int, scheme: str = "systematic", threshold: float | None = 0.5) -> Program:
    """A program that runs particles of another one, and returns the value of one of them with their evidence.

    Args:
        program: The program to run inside.
        particles: How many particles it gets.
        scheme: That of `ppl.resample`.
        threshold: That of `ppl.resample`.

    Returns:
        A `Program` of the same meaning, for `ppl.sample(address, nested(...))`.

    Examples:
        >>> import jax, jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def unit(y):
        ...     x = ppl.sample("x", dist.Normal(0.0, 1.0))
        ...     ppl.sample("y", dist.Normal(x, 0.1), obs=y)
        ...     return x
        >>> @ppl.model
        ... def outer(ys):
        ...     return ppl.vmap(lambda y: ppl.sample("unit", ppl.nested(unit(y), 64)))(ys)
        >>> ppl.infer(outer(jnp.array([1.0, -0.5])), ppl.SMC(50), key=0).values.shape
        (1, 50, 2)
    """
    return unweighed(compose(proper(), smc(particles, None, scheme, threshold), suspend)(program))


def unweighed(weighted: Weighted) -> Program:
    """The program that a weighted one stands for: its value, its weight as a factor."""
    return Program.of(_unweighed, (weighted.program,))


def _unweighed(program: Program) -> Any:
    particle = sample("run", program)
    factor("weight", particle.log_weight)
    return particle.value
