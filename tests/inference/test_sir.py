"""`ppl.SIR` at work: gradients in objectives, importance sampling, lanes, marginals of marginals, errors.

The contracts themselves are law 41 (`tests/laws/test_estimated_densities.py`). Auxiliary choices are not uniform, and
no proposal is the posterior but where a test says so. False alarms 1e-6 a statistical test.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import ppl
import ppl.distributions as dist
from ppl import vi
from ppl.errors import AddressError, MeasureError

Z = 4.9  # two-sided false-alarm rate 1e-6


# --- gradients, exactly -----------------------------------------------------------------------------------------------

PARAMS = np.array([0.4, -0.6, 1.1, 0.3, -0.8])
TARGET = np.array([0.2, -1.3])


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


@ppl.model
def wide(a):
    u = ppl.sample("u", dist.Bernoulli(logits=a[0]), grad=vi.score())
    ppl.sample("x", dist.Bernoulli(logits=a[1] + a[2] * u), grad=vi.enumerate())


@ppl.model
def back(a, x):
    ppl.sample("u", dist.Bernoulli(logits=a[3] + a[4] * x), grad=vi.score())


@vi.objective
def cost(a):
    """Both contracts: the draw's weight against a target, and an estimate at a value."""
    law = wide(a).marginal(["x"], ppl.SIR(2, lambda kept: back(a, kept["x"])))
    choices, log_weight = vi.simulate(law, address="draw")
    return log_weight - jnp.asarray(TARGET)[choices["x"]] + 0.7 * vi.log_density(law, {"x": jnp.array(1)}, "at")


def coin(p, value):
    return p if value else 1 - p


def joint(a, u, x):
    return coin(sigmoid(a[0]), u) * coin(sigmoid(a[1] + a[2] * u), x)


def reverse(a, u, x):
    return coin(sigmoid(a[3] + a[4] * x), u)


def expected_cost(a):
    """By hand, in NumPy: the sum over x and two particles; the first is the program's own in the draw alone."""
    total = 0.0
    for x, u, v in itertools.product((0, 1), repeat=3):
        log_mean = np.log(np.mean([joint(a, w, x) / reverse(a, w, x) for w in (u, v)]))
        total += joint(a, u, x) * reverse(a, v, x) * (log_mean - TARGET[x])
        total += 0.7 * (x == 1) * reverse(a, u, x) * reverse(a, v, x) * log_mean
    return total


def test_values_and_gradients_in_objectives_are_exact():
    """The exact surrogate against finite differences of a sum by hand; the reverse program has a gradient too."""
    with jax.enable_x64(True):
        value, grad = jax.jit(jax.value_and_grad(cost.expect))(jnp.asarray(PARAMS))
    assert value == pytest.approx(expected_cost(PARAMS), abs=1e-10)
    steps = 1e-5 * np.eye(len(PARAMS))
    wanted = [(expected_cost(PARAMS + step) - expected_cost(PARAMS - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(grad, wanted, atol=1e-8)
    assert np.abs(wanted).min() > 1e-3


# --- importance sampling ----------------------------------------------------------------------------------------------

N = 20_000


@ppl.model
def seen():
    x = ppl.sample("x", dist.Normal(0.5, 1.0))
    ppl.sample("y", dist.Normal(x, 0.8), obs=1.7)


EVIDENCE = norm.pdf(1.7, 0.5, (1 + 0.8**2) ** 0.5)


@ppl.model
def two():
    u = ppl.sample("u", dist.Bernoulli(0.3))
    ppl.sample("x", dist.Normal(1.6 - 1.2 * u, 1.2))


@ppl.model
def guess(x):
    ppl.sample("u", dist.Bernoulli(jnp.where(x > 1.0, 0.4, 0.6)))


def law_of_two(n):
    return two().marginal(["x"], ppl.SIR(n, lambda kept: guess(kept["x"])))


def z_score(log_weights):
    """Of the mean of weight / evidence, which must be one."""
    ratios = np.exp(np.asarray(log_weights, float).ravel()) / EVIDENCE
    return (ratios.mean() - 1) / (ratios.std() / len(ratios) ** 0.5)


def test_importance_sampling_is_unbiased_with_an_estimated_proposal(key):
    posterior = ppl.infer(seen(), ppl.Importance(N, law_of_two(2)), key=key)
    assert abs(z_score(posterior.stats["log_weight"])) < Z


def test_an_estimate_made_afresh_at_the_draw_is_a_mutant_that_dies(key):
    """The other contract in its place: E[1 / estimate | x] > 1 / p(x). The right one passes the same test."""
    law = law_of_two(2)

    def weights(key):
        first, second = jax.random.split(key)
        x = law.simulate(first).choices["x"]
        return seen().log_density({"x": x}) - law.estimate_log_density(second, {"x": x})

    def right(key):
        trace = law.simulate(key)
        return seen().log_density(trace.choices) - trace.log_density

    keys = jax.random.split(key, N)
    fresh, kept = jax.jit(jax.vmap(lambda key: (weights(key), right(key))))(keys)
    assert abs(z_score(kept)) < Z
    assert z_score(fresh) > Z


# --- lanes, marginals of marginals ------------------------------------------------------------------------------------


@ppl.model
def pair():
    u = ppl.sample("u", dist.Bernoulli(0.35))
    v = ppl.sample("v", dist.Bernoulli(0.2 + 0.3 * u))
    ppl.sample("x", dist.Bernoulli(0.1 + 0.5 * u + 0.2 * v))


P_UVX = np.array([
    [[coin(0.35, u) * coin(0.2 + 0.3 * u, v) * coin(0.1 + 0.5 * u + 0.2 * v, x) for x in (0, 1)] for v in (0, 1)]
    for u in (0, 1)
])  # fmt: skip
P_X = P_UVX.sum((0, 1))


@ppl.model
def posterior(x):
    """The law of u and v given x: with it every estimate is the density, whatever the key."""
    given = jnp.asarray(P_UVX / P_X, jnp.result_type(float))[..., x]
    u = ppl.sample("u", dist.Bernoulli(given[1].sum()))
    ppl.sample("v", dist.Bernoulli(given[u, 1] / given[u].sum()))


@ppl.model
def lanes():
    law = pair().marginal("x", ppl.SIR(2, lambda kept: posterior(kept["x"])))
    return ppl.vmap(lambda: ppl.sample("m", law), axis_size=40)()


def test_lanes_have_draws_and_estimates_of_their_own(key):
    """Equal draws in 40 lanes have probability .64^40 < 1e-7."""
    trace = jax.jit(lambda key: lanes().simulate(key))(key)
    x = np.asarray(trace.choices["m/x"])
    assert x.shape == (40,)
    assert 0 < x.sum() < 40
    assert trace.log_density == pytest.approx(np.log(P_X)[x].sum(), rel=1e-5)
    value = np.arange(40) % 3 // 2  # 27 zeros
    estimate = lanes().estimate_log_density(key, {"m/x": jnp.asarray(value)})
    assert estimate == pytest.approx(np.log(P_X)[value].sum(), rel=1e-5)


@ppl.model
def some_v(x):
    ppl.sample("v", dist.Bernoulli(0.3 + 0.3 * x))


def test_a_marginal_of_a_marginal_keeps_both_contracts():
    """Addresses of the inner estimate do not clash with those of the outer one."""
    with jax.enable_x64(True):
        inner = pair().marginal(["x", "v"], ppl.SIR(2))
        law = ppl.SIR(2, lambda kept: some_v(kept["x"])).marginalize(inner, ("x",))
        for x in (0, 1):
            found = law.estimate({"x": jnp.array(x)}).enumerate()
            assert jnp.sum(jnp.exp(found.log_weights + found.values)) == pytest.approx(P_X[x], abs=1e-10)
        drawn = law.weighted().enumerate()
        choices, log_weight = drawn.values
        inverse = np.exp(np.asarray(drawn.log_weights - log_weight))
        for x in (0, 1):
            assert inverse[np.asarray(choices["x"]) == x].sum() == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("method", [ppl.SIR(2), ppl.Exact()], ids=["SIR", "exact"])
def test_a_part_of_a_marginal_without_a_proposal_of_the_rest_is_refused(method):
    """It was drawn with the weight p(x, v): E[1 / w | x] = 2 / p(x) with one particle."""
    inner = pair().marginal(["x", "v"], method)
    with pytest.raises(AddressError, match=r"test_sir.py:\d+\)[^$]*\['v'\] are neither kept nor proposed"):
        inner.marginal("x", ppl.SIR(1))


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_density_without_a_key_is_refused_with_the_site_and_the_ways_out():
    @ppl.model
    def outer():
        ppl.sample("m", pair().marginal("x", ppl.SIR(2)))

    for program, site in ((outer(), "'m'"), (pair().marginal(["x"], ppl.SIR(2)), "'the marginal'")):
        (address,) = (a for a, info in program.sites.items() if info.kind == "latent")
        with pytest.raises(MeasureError, match=rf"{site} \(test_sir.py:\d+\)[^$]*estimate_log_density\(key"):
            program.log_density({address: jnp.array(1)})
