"""`ppl.SIR`: marginals and normalised programs whose densities are estimated, with n particles.

    marginal:   p(x)   = integral of p(u, x) du        estimated by   1/n sum_i p(u_i, x) / r(u_i | x),   u_i ~ r
    normalize:  q_n(x) = the law of one of n proposals, picked in proportion to p / r

A marginal is exact: its draws follow p(x), and n matters for the variance of the estimates alone. A normalised program
is the law of what SIR draws, which tends to the posterior as n grows; its estimates are unbiased for *that* law. So
unbiased estimates of expectations under importance weights, MCMC with `ppl.explicit` and SMC stay exact; the mean of
a *logarithm* of an estimate is a bound: below log p(x) for `estimate`, above it for `weighted` (Jensen), tighter in n.
"""

from dataclasses import dataclass
from typing import Any

from ppl.inference.method import positive
from ppl.inference.sir_measures import SIRMarginal, SIRNormalized
from ppl.inference.sir_proposal import proposal_of
from ppl.semantics.program import Program


@dataclass(frozen=True)
class SIR:
    """Sampling importance resampling, a method of `Program.marginal` and `Program.normalize`.

    Args:
        particles: n, the number of particles.
        proposal: A program over auxiliary choices, or a function from the kept choices (a dict) to one; what it lacks
            is drawn from the program itself, given what is kept. It must be able to propose whatever the program can
            make, and nothing that is impossible there: where it proposes what has density zero, `weighted` has
            E[1/w | x] smaller than 1 / p(x).
        grad: The gradient strategy of the particle index that `normalize` picks; by default it is enumerated.

    Examples:
        >>> import jax, jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> from ppl.inference.sir import SIR
        >>> @ppl.model
        ... def pair():
        ...     u = ppl.sample("u", dist.Normal(0.0, 1.0))
        ...     ppl.sample("x", dist.Normal(u, 1.0))
        >>> @ppl.model
        ... def reverse(x):
        ...     ppl.sample("u", dist.Normal(x / 2, 0.8))
        >>> law = pair().marginal(["x"], SIR(1000, lambda kept: reverse(kept["x"])))
        >>> estimate = law.estimate_log_density(0, {"x": 1.0})  # log N(1; 0, sqrt(2)) = -1.5155
        >>> bool(abs(estimate + 1.5155) < 0.02)
        True

    Reference:
        Lew, Ghavamizadeh, Rinard, Mansinghka, *Probabilistic programming with stochastic probabilities*, PLDI 2023;
        Becker, Lew, Wang, Ghavami, Huot, Rinard, Mansinghka, *Probabilistic programming with programmable variational
        inference*, PLDI 2024.
    """

    particles: int
    proposal: Any = None
    grad: Any = None

    def __post_init__(self) -> None:
        positive("particles", self.particles)

    def marginalize(self, program: Program, kept: tuple[str, ...]) -> SIRMarginal:
        """The marginal on some addresses (`Program.marginal`)."""
        return SIRMarginal(program, proposal_of(self.proposal, program, kept), kept, self.particles)

    def normalized(self, program: Program) -> SIRNormalized:
        """The law of SIR draws (`Program.normalize`)."""
        return SIRNormalized(program, proposal_of(self.proposal, program, ()), self.particles, self.grad)
