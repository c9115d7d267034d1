"""`from_numpyro` against NumPyro itself: joint density, addresses, shapes and supports on a zoo of models.

The oracle is `numpyro.infer.util.log_density`, in float64, at draws of NumPyro's own and of ours.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.distributions import constraints, transforms
from numpyro.infer.reparam import LocScaleReparam, TransformReparam
from numpyro.infer.util import log_density
from numpyro.primitives import _PYRO_STACK

from ppl.interop import from_numpyro

SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
X = np.linspace(-1.0, 2.0, 12).reshape(6, 2) ** 3
LABELS = np.array([0, 1, 1, 0, 1, 1])
GRADES = np.array([0, 1, 2, 4, 3, 1])
PRESENT = np.array([[True], [False]])
SERIES = np.array([0.3, -0.4, 1.1, 2.0, 1.5])


@pytest.fixture(autouse=True)
def _numpyro_promotes_ranks():
    """NumPyro's densities broadcast arrays of different ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def eight_schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)
    return theta


def logistic(x, y=None):
    coefs = numpyro.sample("coefs", dist.Normal(jnp.zeros(2), jnp.array([1.0, 2.5])).to_event(1))
    with numpyro.plate("data", x.shape[0]):
        return numpyro.sample("y", dist.Bernoulli(logits=x @ coefs), obs=y)


def subsampled(x, y):
    slope = numpyro.sample("slope", dist.Normal(0.5, 1.0))
    with numpyro.plate("data", 6, subsample_size=4) as index:
        local = numpyro.sample("local", dist.Normal(slope, 0.7))
        noise = numpyro.subsample(jnp.arange(1.0, 7.0), event_dim=0)
        numpyro.sample("y", dist.Normal(local * jnp.asarray(x)[index, 0], noise), obs=jnp.asarray(y)[index])


def nested_plates(y):
    rows = numpyro.plate("rows", 3, dim=-2)
    with numpyro.plate("columns", 2, dim=-1) as _:
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with rows:
            b = numpyro.sample("b", dist.Gamma(2.0, jnp.array([1.0, 3.0])))
            numpyro.sample("y", dist.StudentT(4.0, a, b), obs=y)
    with rows:
        numpyro.sample("c", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))


def masked(y, present):
    loc = numpyro.sample("loc", dist.Normal(1.0, 2.0))
    with numpyro.plate("data", 5), handlers.mask(mask=present):
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
        numpyro.sample("y", dist.Normal(loc, scale), obs=y)


def scaled(y, weights):
    with handlers.scale(scale=0.3):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        with handlers.scale(scale=weights), numpyro.plate("data", 5):
            numpyro.sample("y", dist.Exponential(rate), obs=jnp.abs(y))
    with handlers.scale(scale=weights):
        numpyro.sample("wide", dist.Normal(0.0, 1.0))


def factored(y):
    z = numpyro.sample("z", dist.Uniform(-1.0, 3.0))
    numpyro.factor("once", -0.5 * z**2)
    with numpyro.plate("data", 5), handlers.scale(scale=2.0):
        numpyro.factor("each", jnp.sin(z))
        numpyro.factor("vector", y * z)


def hidden_markov(y):
    rows = numpyro.sample("rows", dist.Dirichlet(jnp.eye(3) * 2.0 + 1.0).to_event(1))
    means = numpyro.sample("means", dist.Normal(jnp.arange(3.0), 1.0).to_event(1))

    def step(state, y_now):
        state = numpyro.sample("state", dist.Categorical(rows[state]))
        numpyro.sample("y", dist.Normal(means[state], 0.5), obs=y_now)
        return state, state

    return scan(step, 0, y)


def conditional():
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))

    def high(shift):
        numpyro.factor("bonus", shift)
        return numpyro.sample("z", dist.Normal(20.0 + shift, 1.5))

    def low(shift):
        numpyro.factor("bonus", -2.0 * shift)
        return numpyro.sample("z", dist.Normal(-shift, 0.5))

    return cond(x > 0.1, high, low, 0.7)


def mixture(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([1.0, 2.0, 4.0])))
    with numpyro.plate("components", 3):
        means = numpyro.sample("means", dist.Normal(0.0, 3.0))
    with numpyro.plate("data", 5):
        k = numpyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(means[k], 0.8), obs=y)


def dirichlet_multinomial(counts):
    concentration = numpyro.sample("concentration", dist.Exponential(0.5).expand([3]).to_event(1))
    with numpyro.plate("documents", 2):
        numpyro.sample("words", dist.DirichletMultinomial(concentration, total_count=7), obs=counts)


def covariance(y):
    scales = numpyro.sample("scales", dist.HalfNormal(2.0).expand([2]).to_event(1))
    corr = numpyro.sample("corr", dist.LKJCholesky(2, 1.5))
    factor = numpyro.deterministic("factor", scales[:, None] * corr)
    with numpyro.plate("data", 6):
        numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(2), scale_tril=factor), obs=y)


def autoregressive(y=None):
    slope = numpyro.sample("slope", dist.Uniform(-1.0, 1.0))

    def step(carry, y_now):
        with numpyro.plate("channel", 2):
            z = numpyro.sample("z", dist.Normal(slope * carry, 0.6))
            numpyro.deterministic("double", 2.0 * z)
        numpyro.sample("y", dist.Normal(z.sum(), 0.3), obs=y_now)
        return z, z

    return scan(step, jnp.zeros(2), y, length=5, reverse=False)


def improper(y):
    low = numpyro.sample("low", dist.Normal(0.0, 1.0))
    scale = numpyro.sample("scale", dist.ImproperUniform(constraints.positive, (), ()))
    shift = numpyro.sample("shift", dist.ImproperUniform(constraints.greater_than(low), (), (2,)))
    numpyro.sample("y", dist.Normal(shift.sum(), scale), obs=y)


def ordered(y):
    base = dist.Normal(0.0, 1.0).expand([4]).to_event(1)
    cuts = numpyro.sample("cuts", dist.TransformedDistribution(base, transforms.OrderedTransform()))
    numpyro.sample("y", dist.OrderedLogistic(jnp.linspace(-1.0, 1.0, 6), cuts), obs=y)


def broadcast(y):
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0), sample_shape=(2, 1))
    numpyro.sample("y", dist.Normal(loc[0, 0], 2.0), obs=y)
    numpyro.sample("same", dist.Poisson(jnp.exp(loc)), obs=3.0)
    width = numpyro.param("width", 1.7, constraint=constraints.positive)
    numpyro.sample("z", dist.Laplace(loc, width), obs=jnp.array([[0.4], [jnp.nan]]), obs_mask=PRESENT)


def intervened():
    s = numpyro.sample("s", dist.LogNormal(0.0, 1.0))
    z = numpyro.sample("z", dist.Normal(0.0, s))
    numpyro.sample("w", dist.Normal(z, 1.0), obs=0.4)


def lifted():
    width = numpyro.param("width", 0.5)
    with handlers.scope(prefix="inner"):
        numpyro.sample("z", dist.Normal(1.0, width))


def around_scan(y):
    weights = jnp.arange(1.0, 6.0)
    given = {"z": jnp.asarray(SERIES)}
    with handlers.scale(scale=weights), handlers.mask(mask=weights > 2.0), handlers.condition(data=given):
        return autoregressive_scalar(y)


def autoregressive_scalar(y):
    def step(carry, y_now):
        z = numpyro.sample("z", dist.Normal(0.4 * carry, 0.6))
        u = numpyro.sample("u", dist.Normal(z, 1.1))
        numpyro.sample("y", dist.Normal(u, 0.3), obs=y_now)
        return z, u

    return scan(step, 1.0, y)


class Case(NamedTuple):
    model: Any
    args: tuple = ()
    kwargs: dict = {}


CENTRED = {"theta": LocScaleReparam(centered=0.0)}
GROUPS = handlers.reparam(eight_schools, config={"theta": LocScaleReparam(0.3, shape_params=())})
CASES = {
    "eight schools": Case(eight_schools, (SIGMA, EFFECT)),
    "loc-scale reparam": Case(handlers.reparam(eight_schools, config=CENTRED), (SIGMA, EFFECT)),
    "partial reparam": Case(GROUPS, (SIGMA, EFFECT)),
    "transform reparam": Case(handlers.reparam(ordered, config={"cuts": TransformReparam()}), (GRADES,)),
    "logistic": Case(logistic, (X, LABELS)),
    "float labels": Case(logistic, (X, LABELS.astype(float))),
    "predictive": Case(logistic, (X,), {"y": None}),
    "subsampled plate": Case(subsampled, (X, EFFECT[:6])),
    "nested plates": Case(nested_plates, (EFFECT[:6].reshape(3, 2),)),
    "array mask": Case(masked, (np.array([1.0, 2.0, np.nan, 0.5, np.nan]), np.array([True, True, False, True, False]))),
    "array scale": Case(scaled, (SERIES, np.arange(1.0, 6.0))),
    "factor": Case(factored, (SERIES,)),
    "hmm": Case(hidden_markov, (SERIES,)),
    "cond": Case(conditional),
    "conditioned": Case(handlers.condition(eight_schools, data={"tau": jnp.array(2.5)}), (SIGMA,), {"y": EFFECT}),
    "substituted": Case(handlers.substitute(eight_schools, data={"tau": jnp.array(2.5)}), (SIGMA,), {"y": EFFECT}),
    "mixture": Case(mixture, (SERIES,)),
    "dirichlet-multinomial": Case(dirichlet_multinomial, (np.array([[1, 2, 4], [0, 6, 1]]),)),
    "lkj": Case(covariance, (X,)),
    "ar in scan": Case(autoregressive, (SERIES,)),
    "ar predictive": Case(autoregressive),
    "improper": Case(improper, (0.7,)),
    "ordered": Case(ordered, (GRADES,)),
    "broadcast": Case(broadcast, (SERIES,)),
    "do": Case(handlers.do(intervened, data={"z": 1.5})),
    "lift and scope": Case(handlers.lift(lifted, prior={"width": dist.Exponential(0.3)})),
    "handlers around scan": Case(around_scan, (SERIES,)),
    "uncondition": Case(handlers.uncondition(eight_schools), (SIGMA, EFFECT)),
}


def oracle(case: Case, values: dict) -> dict:
    """NumPyro's trace with the given values."""
    seeded = handlers.seed(handlers.substitute(case.model, data=values), 3)
    return handlers.trace(seeded).get_trace(*case.args, **case.kwargs)


def latent(site: dict) -> bool:
    subset = site["type"] == "plate" and site["args"][1] not in (None, site["args"][0])
    return subset or (site["type"] == "sample" and not site["is_observed"])


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


IMPROPER = {"scale": np.array(1.3), "shift": np.array([4.0, 5.5])}


def test_density_draws_and_sites_are_numpyros(case, key):
    """At NumPyro's draws and at our own: one joint density, one set of sites, draws in the support."""
    with jax.enable_x64(True):
        trace = oracle(case, IMPROPER if case.model is improper else {})
        program = from_numpyro(case.model)(*case.args, **case.kwargs)
        drawn = program.simulate(key)
        theirs = {name: site["value"] for name, site in choices_of(case, trace).items()}
        density = jax.jit(lambda values: log_density(handlers.seed(case.model, 0), case.args, case.kwargs, values)[0])
        for values, got in ((theirs, program.log_density(theirs)), (drawn.choices, drawn.log_density)):
            expected = density(values)
            assert np.isfinite(expected)
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
        check_choices(program, drawn.choices, choices_of(case, oracle(case, drawn.choices)))
        check_other_sites(program, trace)
    assert _PYRO_STACK == []


def choices_of(case: Case, trace: dict) -> dict:
    """Latent sites of NumPyro's trace; subsamples of plates are choices too, substituted values are not."""
    fixed = case.model.data if isinstance(case.model, handlers.substitute) else {}
    return {name: site for name, site in trace.items() if latent(site) and name not in fixed}


def check_choices(program, choices: dict, expected: dict):
    assert set(choices) == set(expected)
    for name, site in expected.items():
        assert program.sites[name].shape == choices[name].shape == jnp.shape(site["value"])
        assert program.sites[name].dtype == jnp.result_type(site["value"])
        if site["type"] == "sample":
            assert np.all(site["fn"].support(choices[name])), name


def check_other_sites(program, trace: dict):
    sampled = {name: site for name, site in trace.items() if site["type"] == "sample" and site["is_observed"]}
    factors = {name for name, site in sampled.items() if jnp.size(site["value"]) == 0}
    kinds = {info.address: info.kind for info in program.sites.values() if not info.address.endswith("/reweight")}
    assert {name for name, kind in kinds.items() if kind == "observed"} == set(sampled) - factors
    assert {name for name, kind in kinds.items() if kind == "factor"} == factors
    assert {name for name, kind in kinds.items() if kind == "deterministic"} == {
        name for name, site in trace.items() if site["type"] == "deterministic"
    }
