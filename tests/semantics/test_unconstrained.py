"""Unconstrained programs: change of variables against autodiff, round trips, supports that depend on choices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, MeasureError, SupportError, UnboundedError
from ppl.semantics.unconstrained import Pullback, unconstrained


@pytest.fixture(autouse=True)
def _numpyro_promotes_ranks():
    """NumPyro's expanded distributions promote ranks in their own `sample` and `log_prob`."""
    with jax.numpy_rank_promotion("allow"):
        yield


def lower_triangle(x):
    return x[jnp.tril_indices(x.shape[-1])]


def strict_lower_triangle(x):
    return x[jnp.tril_indices(x.shape[-1], -1)]


# For each distribution: coordinates of the constrained value, as many as its dimension, in which its density is stated.
TABLE = {
    "normal": (lambda s: dist.Normal(1.5, s), jnp.ravel),
    "half normal": (lambda s: dist.HalfNormal(s), jnp.ravel),
    "gamma": (lambda s: dist.Gamma(2.5, s), jnp.ravel),
    "beta": (lambda s: dist.Beta(2.0, 1.0 + s), jnp.ravel),
    "uniform": (lambda s: dist.Uniform(-s, 2.0 * s), jnp.ravel),
    "pareto": (lambda s: dist.Pareto(s, 3.0), jnp.ravel),
    "truncated above": (lambda s: dist.TruncatedNormal(0.5, 2.0, high=s), jnp.ravel),
    "truncated below": (lambda s: dist.TruncatedNormal(0.5, 2.0, low=s), jnp.ravel),
    "truncated": (lambda s: dist.TruncatedNormal(0.5, 2.0, low=-s, high=3.0 * s), jnp.ravel),
    "circular": (lambda s: dist.VonMises(0.5, s), jnp.ravel),
    "batch": (lambda s: dist.Gamma(jnp.array([1.5, 2.5, 4.0]), s), jnp.ravel),
    "independent": (lambda s: dist.Uniform(-s, jnp.array([1.0, 2.0])).to_event(1), jnp.ravel),
    "expanded": (lambda s: dist.HalfCauchy(s).expand((2, 2)), jnp.ravel),
    "lognormal": (lambda s: dist.LogNormal(0.5, s), jnp.ravel),
    "simplex": (lambda s: dist.Dirichlet(jnp.array([1.5, 2.0, 3.0]) * s), lambda x: x[..., :-1]),
    "simplices": (
        lambda s: dist.Dirichlet(jnp.array([[1.5, 2.0, 3.0], [2.0, 1.0, 4.0]]) * s),
        lambda x: jnp.ravel(x[..., :-1]),
    ),
    "multivariate": (lambda s: dist.MultivariateNormal(jnp.zeros(2), s * jnp.eye(2)), jnp.ravel),
    "ordered": (
        lambda s: dist.TransformedDistribution(
            dist.Normal(jnp.zeros(3), s).to_event(1), dist.transforms.OrderedTransform()
        ),
        jnp.ravel,
    ),
    "correlation factor": (lambda s: dist.LKJCholesky(3, 1.0 + s), strict_lower_triangle),
    "correlation": (lambda s: dist.LKJ(3, 1.0 + s), strict_lower_triangle),
    "positive definite": (lambda s: dist.Wishart(4.0 + s, jnp.eye(2)), lower_triangle),
}


@ppl.model
def single(make):
    scale = ppl.sample("scale", dist.HalfNormal(2.0))
    x = ppl.sample("x", make(scale))
    ppl.sample("count", dist.Bernoulli(0.25))
    ppl.sample("y", dist.Normal(jnp.sum(x), 0.7), obs=jnp.array(1.25))
    return x


def point(program):
    """A value for each choice of an unconstrained program; asymmetric, and the same in every run."""
    shape = program.sites["x"].shape
    x = 0.3 + 0.6 * np.sin(1.0 + np.arange(np.prod(shape, dtype=int)).reshape(shape))
    return {"scale": jnp.array(0.2), "x": jnp.asarray(x, jnp.result_type(float)), "count": jnp.array(1)}


@partial(jax.jit, static_argnums=2)
def measured(there, choices, coordinates):
    """log p(u); log p(constrain(u)) + log |det dx/du| by forward-mode autodiff; constrain(u); and back."""
    x = there.constrain(choices)

    def pushed(u):
        return coordinates(there.constrain({**choices, "x": u})["x"])

    jacobian = jax.jacfwd(pushed)(choices["x"]).reshape(-1, choices["x"].size)
    log_det = jnp.linalg.slogdet(jacobian)[1] + choices["scale"]  # scale = exp(u): its log Jacobian is u
    return there.program.log_density(choices), there.original.log_density(x) + log_det, x, there.unconstrain(x)


@pytest.mark.parametrize("name", TABLE)
def test_the_density_holds_the_jacobian_exactly(name):
    make, coordinates = TABLE[name]
    there = unconstrained(single(make))
    choices = point(there.program)
    density, expected, x, back = measured(there, choices, coordinates)
    np.testing.assert_allclose(density, expected, rtol=2e-5, atol=2e-5)
    assert {address: v.shape for address, v in x.items()} == {
        address: info.shape for address, info in there.original.sites.items() if info.kind == "latent"
    }
    for address, value in choices.items():
        np.testing.assert_allclose(back[address], value, rtol=2e-4, atol=2e-5)


def test_a_dropped_jacobian_is_killed(monkeypatch):
    monkeypatch.setattr(Pullback, "log_prob", lambda self, value: self.base_dist.log_prob(self.transform(value)))
    there = unconstrained(single(lambda s: dist.Gamma(2.25, s)))
    density, expected, _, _ = measured(there, point(there.program), jnp.ravel)
    assert abs(density - expected) > 1e-2


def test_discrete_choices_stay():
    there = unconstrained(single(TABLE["gamma"][0]))
    assert there.program.sites["count"] == there.original.sites["count"]


def test_the_value_is_the_constrained_one():
    there = unconstrained(single(TABLE["simplex"][0]))
    trace = there.program.simulate(jax.random.key(0))
    np.testing.assert_allclose(jnp.sum(trace.value), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(trace.value, there.constrain(trace.choices)["x"])


@ppl.model
def nested(flag):
    bound = ppl.sample("bound", dist.Gamma(2.0, 1.0))

    def step(top, _):
        top = ppl.sample("shrinking", dist.Uniform(0.0, top))
        return top, top

    last, path = lax.scan(step, bound, None, length=3)
    ppl.vmap(lambda top: ppl.sample("lane", dist.Uniform(-1.0, top)))(path)
    with ppl.plate("row", 4):
        ppl.sample("mix", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
    return lax.cond(
        flag > 0.0,
        lambda: ppl.sample("inside", dist.Beta(1.0 + last, 2.0)),
        lambda: jnp.array(0.25),
    )


def nested_log_det(there, choices):
    """The log Jacobian determinant of the whole map at once: it is triangular in program order, not diagonal."""
    flat, unravel = ravel_pytree(choices)

    def pushed(flat):
        x = there.constrain(unravel(flat))
        return ravel_pytree({a: v[..., :-1] if a == "mix" else v for a, v in x.items()})[0]

    return jnp.linalg.slogdet(jax.jit(jax.jacfwd(pushed))(flat))[1]


@pytest.mark.slow
def test_control_flow_and_dependent_supports():
    there = unconstrained(nested(jnp.array(1.0)))
    trace = there.program.simulate(jax.random.key(4))
    shapes = {a: v.shape for a, v in trace.choices.items()}
    assert shapes == {"bound": (), "shrinking": (3,), "lane": (3,), "mix": (4, 2), "inside": ()}
    x = there.constrain(trace.choices)
    expected = there.original.log_density(x) + nested_log_det(there, trace.choices)
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-5, atol=1e-4)
    assert there.program.sites["mix"].dims == ("row", None)
    assert there.program.sites["inside"].masked
    for address, value in there.unconstrain(x).items():
        np.testing.assert_allclose(value, trace.choices[address], rtol=1e-3, atol=1e-3)


def test_a_branch_not_taken_counts_for_nothing():
    there = unconstrained(nested(jnp.array(-1.0)))
    choices = there.program.simulate(jax.random.key(4)).choices
    before = there.program.log_density(choices)
    assert there.program.log_density({**choices, "inside": jnp.array(7.5)}) == before


def test_it_passes_through_jit_and_grad():
    there = unconstrained(single(TABLE["beta"][0]))
    choices = there.program.simulate(jax.random.key(1)).choices

    @jax.jit
    def slope(there, x):
        return jax.grad(lambda x: there.program.log_density({**choices, "x": x}))(x)

    assert jnp.isfinite(slope(there, choices["x"]))
    many = jax.vmap(lambda x: there.constrain({**choices, "x": x})["x"])(jnp.linspace(-20.0, 20.0, 5))
    assert jnp.all((many >= 0.0) & (many <= 1.0))


def test_the_same_program_is_staged_once():
    one, two = unconstrained(nested(jnp.array(1.0))), unconstrained(nested(jnp.array(-2.0)))
    assert one.program.staged is two.program.staged


def test_errors_say_where_and_what():
    there = unconstrained(single(TABLE["beta"][0]))
    good = there.original.simulate(jax.random.key(0)).choices
    with pytest.raises(SupportError, match=r"'x' \(test_unconstrained.py:\d+, Beta\) lies outside"):
        there.unconstrain({**good, "x": jnp.array(1.5)})
    with pytest.raises(AddressError, match="missing: 'x'"):
        there.constrain({"scale": good["scale"], "count": good["count"]})

    @ppl.model
    def loop():
        return lax.while_loop(lambda s: s < 2.0, lambda s: s + ppl.sample("z", dist.HalfNormal(1.0)), 0.0)

    with pytest.raises(UnboundedError, match="'z'"):
        unconstrained(loop())


class Odd(dist.constraints.Constraint):
    """A support that nobody knows a bijection to."""

    event_dim = 0

    def __call__(self, x):
        return x > 0.0


class OnOdd(dist.Normal):
    support = Odd()


def test_a_support_without_a_bijection_is_named():
    @ppl.model
    def strange():
        return ppl.sample("odd", OnOdd(0.0, 1.0))

    with pytest.raises(MeasureError, match=r"'odd' at test_unconstrained.py:\d+, drawn from OnOdd"):
        unconstrained(strange())
