"""`vi.reparam()` for every reparameterisable distribution and wrapper of NumPyro.

The derivative of a draw in the parameters is compared with central differences of the draw at the same key; where a
draw is made of gamma ones, whose samplers reject, with the derivative of a known mean, statistically (false-alarm rate
1e-6 for all of a test together).
"""

from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions.distribution as base
import pytest
from jax.scipy.special import polygamma

import ppl.distributions as dist
from ppl.distributions.drawn import law_of_draws

AT, STEP = 0.7, 1e-5
ROOT = ((1.0, 0.0), (0.3, 0.8))
transforms = dist.transforms


pytestmark = pytest.mark.usefixtures("float64")


def root(t):
    return jnp.array(ROOT) * jnp.exp(0.5 * t)


def pair(t):
    return jnp.stack([t, -2.0 * t])


def ring():
    return jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


SMOOTH = {
    "AsymmetricLaplace": lambda t: dist.AsymmetricLaplace(t, 1 + t, 2 - t),
    "AsymmetricLaplaceQuantile": lambda t: dist.AsymmetricLaplaceQuantile(t, 1 + t, 0.3 * t),
    "CAR": lambda t: dist.CAR(pair(t)[0] * jnp.ones(3), 0.5 * t, 1 + t, ring()),
    "Cauchy": lambda t: dist.Cauchy(t, 1 + t),
    "Dagum": lambda t: dist.Dagum(1 + t, 2 - t, 1 + 2 * t),
    "Delta": lambda t: dist.Delta(t**2),
    "DoublyTruncatedPowerLaw": lambda t: dist.DoublyTruncatedPowerLaw(-1 - t, 1 + t, 5 + t),
    "Exponential": lambda t: dist.Exponential(1 + t),
    "GaussianCopula": lambda t: dist.GaussianCopula(dist.Exponential(1 + t), correlation_cholesky=jnp.eye(2)),
    "GaussianRandomWalk": lambda t: dist.GaussianRandomWalk(1 + t, 3),
    "Gompertz": lambda t: dist.Gompertz(1 + t, 2 - t),
    "Gumbel": lambda t: dist.Gumbel(t, 1 + t),
    "HalfCauchy": lambda t: dist.HalfCauchy(1 + t),
    "HalfNormal": lambda t: dist.HalfNormal(1 + t),
    "Kumaraswamy": lambda t: dist.Kumaraswamy(1 + t, 2 - t),
    "Laplace": lambda t: dist.Laplace(t, 1 + t),
    "LogNormal": lambda t: dist.LogNormal(t, 1 + t),
    "LogUniform": lambda t: dist.LogUniform(1 + t, 5 - t),
    "Logistic": lambda t: dist.Logistic(t, 1 + t),
    "LowRankMultivariateNormal": lambda t: dist.LowRankMultivariateNormal(pair(t), root(t), jnp.exp(pair(t))),
    "LowerTruncatedPowerLaw": lambda t: dist.LowerTruncatedPowerLaw(-2 - t, 1 + t),
    "MatrixNormal": lambda t: dist.MatrixNormal(root(t), root(t), root(0.5 * t)),
    "MultivariateNormal": lambda t: dist.MultivariateNormal(pair(t), scale_tril=root(t)),
    "Normal": lambda t: dist.Normal(t, 1 + t),
    "Pareto": lambda t: dist.Pareto(1 + t, 2 - t),
    "ProjectedNormal": lambda t: dist.ProjectedNormal(pair(t)),
    "RelaxedBernoulliLogits": lambda t: dist.RelaxedBernoulliLogits(1 + t, t),
    "SoftLaplace": lambda t: dist.SoftLaplace(t, 1 + t),
    "Uniform": lambda t: dist.Uniform(t, 1 + 3 * t),
    "Weibull": lambda t: dist.Weibull(1 + t, 2 - t),
    "ZeroSumNormal": lambda t: dist.ZeroSumNormal(1 + t, (3,)),
    "LeftTruncatedDistribution": lambda t: dist.TruncatedNormal(t, 1 + t, low=-t),
    "RightTruncatedDistribution": lambda t: dist.TruncatedNormal(t, 1 + t, high=2 * t),
    "TwoSidedTruncatedDistribution": lambda t: dist.TruncatedNormal(t, 1 + t, low=-t, high=2 * t),
    "LeftTruncatedGamma": lambda t: dist.LeftTruncatedGamma(dist.Gamma(1 + t, 2 - t), low=t),
    "RightTruncatedGamma": lambda t: dist.RightTruncatedGamma(dist.Gamma(1 + t, 2 - t), high=t),
    "TwoSidedTruncatedGamma": lambda t: dist.TwoSidedTruncatedGamma(dist.Gamma(1 + t, 2 - t), low=t, high=2 * t),
    "TransformedDistribution": lambda t: dist.TransformedDistribution(
        dist.Normal(t, 1 + t), [transforms.AffineTransform(t, 2.0 - t), transforms.SigmoidTransform()]
    ),
    "ExpandedDistribution": lambda t: dist.Normal(t, 1 + t).expand([2, 2]),
    "Independent": lambda t: dist.Gumbel(pair(t), jnp.exp(pair(t))).to_event(1),
    "MaskedDistribution": lambda t: dist.Normal(t, 1 + t).mask(False),
    "FoldedDistribution": lambda t: dist.FoldedDistribution(dist.Normal(t, 1 + t)),
    "ImproperUniform": lambda t: dist.ImproperUniform(dist.constraints.greater_than(t), (), (2,)),
}
"""Draws that are differentiable functions of the parameters at a fixed key."""
LONG = [name for name in SMOOTH if name.endswith("TruncatedGamma")]
QUICK = [name for name in SMOOTH if name not in LONG]

# Each with an observable whose mean is known: of a draw, and of the parameter.
BY_GAMMA = {
    "Gamma": (lambda t: dist.Gamma(1 + t, 2 - t), jnp.log, lambda t: polygamma(0, 1 + t) - jnp.log(2 - t)),
    "InverseGamma": (
        lambda t: dist.InverseGamma(1 + t, 2 - t),
        jnp.log,
        lambda t: jnp.log(2 - t) - polygamma(0, 1 + t),
    ),
    "Beta": (
        lambda t: dist.Beta(1 + t, 2.0),
        lambda x: x**2,
        lambda t: (1 + t) * (2 + t) / ((3 + t) * (4 + t)),
    ),
    "Dirichlet": (
        lambda t: dist.Dirichlet(jnp.stack([1 + t, 2.0 + 0 * t, 0.5 + 2 * t])),
        lambda x: x[0] * x[2],
        lambda t: (1 + t) * (0.5 + 2 * t) / ((3.5 + 3 * t) * (4.5 + 3 * t)),
    ),
    "StudentT": (
        lambda t: dist.StudentT(9 + t, t, 1 + t),
        lambda x: x**2,
        lambda t: t**2 + (1 + t) ** 2 * (9 + t) / (7 + t),
    ),
    "LKJCholesky": (lambda t: dist.LKJCholesky(2, 1 + t), lambda x: x[1, 0] ** 2, lambda t: 1 / (3 + 2 * t)),
}
GROUPS = [
    ("Gamma", "Beta", "Dirichlet"),
    pytest.param(("InverseGamma", "StudentT", "LKJCholesky"), marks=pytest.mark.slow),
]
"""Each law costs three seconds of compilation."""

ELSEWHERE = {
    "Chi2": "a gamma law",
    "BetaProportion": "a beta law",
    "MultivariateStudentT": "normal draws over a gamma one",
    "LKJ": "LKJCholesky's draws, multiplied",
    "GaussianCopulaBeta": "needs the inverse of the beta law's cumulative probability",
}
REFUSED = {
    "VonMises": lambda t: dist.VonMises(t, 1 + t),
    "Wishart": lambda t: dist.Wishart(4 + t, scale_tril=root(t)),
    "WishartCholesky": lambda t: dist.WishartCholesky(4 + t, scale_tril=root(t)),
    "InverseWishart": lambda t: dist.InverseWishart(4 + t, scale_tril=root(t)),
    "InverseWishartCholesky": lambda t: dist.InverseWishartCholesky(4 + t, scale_tril=root(t)),
}
"""Laws that are reparameterised in some of their parameters only."""


def subclasses(kind):
    return {kind} | {deeper for child in kind.__subclasses__() for deeper in subclasses(child)}


def test_every_reparameterisable_law_is_listed():
    ours = ("numpyro.distributions.continuous", "numpyro.distributions.truncated", "numpyro.distributions.copula")
    declared = {
        kind.__name__
        for kind in subclasses(base.Distribution)
        if kind.__module__.startswith(ours) and getattr(kind, "reparametrized_params", [])
    }
    assert declared <= {*SMOOTH, *BY_GAMMA, *ELSEWHERE, *REFUSED}


@pytest.mark.parametrize("name", [*SMOOTH, *BY_GAMMA])
def test_the_law_says_that_it_is_reparameterisable(name):
    law = SMOOTH[name] if name in SMOOTH else BY_GAMMA[name][0]
    assert law_of_draws(law(jnp.float64(AT))).has_rsample


@pytest.mark.parametrize("name", REFUSED)
def test_laws_that_are_only_partly_reparameterisable_say_no(name):
    assert not REFUSED[name](jnp.float64(AT)).has_rsample


@pytest.mark.parametrize("names", [QUICK, pytest.param(LONG, marks=pytest.mark.slow)], ids=["quick", "long"])
def test_the_derivative_of_a_draw_is_that_at_its_key(names, key):
    def draws(t):
        return {name: law_of_draws(SMOOTH[name](t)).sample(key) for name in names}

    both = jax.jit(lambda t: jax.jvp(draws, (t,), (jnp.ones_like(t),)))
    (up, _), (down, _), (_, slopes) = both(AT + STEP), both(AT - STEP), both(AT)
    wrong = {}
    for name, slope in slopes.items():
        wanted = (up[name] - down[name]) / (2 * STEP)
        if not np.allclose(slope, wanted, rtol=1e-6, atol=1e-7) or np.all(slope == 0):
            wrong[name] = (slope, wanted)
    assert not wrong


@pytest.mark.parametrize("names", GROUPS)
def test_laws_made_of_gamma_draws(names, key):
    """And a mutant of each: a derivative a quarter too small is told from the right one."""

    cases = {name: BY_GAMMA[name] for name in names}

    def slopes(key, t):
        def observed(t):
            return {name: f(law(t).sample(key)) for name, (law, f, _) in cases.items()}

        return jax.jvp(observed, (t,), (1.0,))[1]

    found = jax.jit(jax.vmap(slopes, in_axes=(0, None)))(jax.random.split(key, 4000), AT)
    wanted = jax.jit(lambda t: {name: jax.grad(mean)(t) for name, (_, _, mean) in cases.items()})(AT)
    allowed = NormalDist().inv_cdf(1 - 1e-6 / (2 * len(cases)))
    errors = {name: s.std() / np.sqrt(len(s)) for name, s in found.items()}
    gaps = {name: abs(found[name].mean() - wanted[name]) / errors[name] for name in found}
    mutants = {name: abs(0.75 * found[name].mean() - wanted[name]) / (0.75 * errors[name]) for name in found}
    assert {name: gap for name, gap in gaps.items() if not gap < allowed} == {}
    assert {name: gap for name, gap in mutants.items() if not gap > allowed} == {}
