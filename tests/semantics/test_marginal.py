"""`Program.marginal` against enumeration of the conditioned program: values, gradients, mutants, cost."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp

import ppl
import ppl.distributions as dist
from ppl.semantics import elimination
from ppl.semantics.chain import Chain
from ppl.semantics.named import Named
from tests.oracle.generate import SKELETONS, fillings, generic
from tests.oracle.render import to_program
from tests.semantics.finite_models import CASES, DATA, STEP3


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def exact(program, kept):
    return program.marginal(kept, method=ppl.Exact())


# --- against enumeration ---------------------------------------------------------------------------------------------


def subsets(program):
    """Nothing, everything, each choice alone, and all but one."""
    names = [address for address, info in program.sites.items() if info.kind == "latent"]
    sizes = {0, 1, len(names) - 1, len(names)}
    return [list(kept) for size in sorted(sizes) for kept in itertools.combinations(names, size)]


def masses(program, kept):
    """For each row of the enumeration, the mass of its kept choices: by the marginal, and by comparing all rows."""
    finite = program.enumerate()
    rows = {address: finite.choices[address] for address in kept}
    marginal = exact(program, kept)
    found = jax.vmap(marginal.log_density)(rows) if kept else marginal.log_density({})
    agree = np.ones((len(finite.weights),) * 2, bool)
    for address, values in rows.items():
        agree &= np.all(_agreeing(np.asarray(values), finite.masks.get(address)), axis=-1)
    return np.exp(found), agree @ np.asarray(finite.weights)


def _agreeing(values, mask):
    """For rows i, j and each element: whether row j has the value of row i, or does not make the choice."""
    made = np.ones(values.shape, bool)
    if mask is not None:
        made = np.broadcast_to(np.reshape(mask, (*mask.shape, *(1,) * (values.ndim - mask.ndim))), values.shape)
    flat, made = values.reshape(len(values), -1), made.reshape(len(values), -1)
    return (flat[:, None] == flat[None]) | ~made[None]


@pytest.mark.parametrize("name", list(SKELETONS))
@pytest.mark.slow
def test_random_programs_keep_any_choices(name):
    """Also in branches that are not taken: such a choice agrees with every value."""
    kept = subsets(to_program(generic(SKELETONS[name])))
    chosen = kept[:: max(1, len(kept) // 3)]

    @settings(max_examples=3)
    @given(fillings(SKELETONS[name]))
    def check(program):
        for addresses in chosen:
            found, brute = masses(to_program(program), addresses)
            np.testing.assert_allclose(found, brute, atol=1e-10)

    check()


def bound(name):
    """A case with a function of its own (so that nothing cached is used), its kept values and the floats among them."""
    function, kept = CASES[name]
    program = ppl.model(lambda ys: function(ys))(jnp.asarray(DATA))
    values = {address: jnp.asarray(value) for address, value in kept.items()}
    floats = {a: x for a, x in values.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    return program, values, floats


def both(name, eps=1e-4):
    """Value and gradient in the kept floats: by the marginal; by enumeration and a difference of fourth order."""
    program, values, floats = bound(name)
    marginal = exact(program, list(values))
    found = jax.jit(jax.value_and_grad(lambda x: marginal.log_density({**values, **x})))(floats)
    start, unravel = ravel_pytree(floats)
    brute = lambda flat: program.condition({**values, **unravel(flat)}).enumerate().log_mass
    slope = [
        (8 * (brute(start + d) - brute(start - d)) - (brute(start + 2 * d) - brute(start - 2 * d))) / (12 * eps)
        for d in eps * np.eye(len(start))
    ]
    return found, (brute(start), unravel(jnp.asarray(slope)))


@pytest.mark.parametrize("name", list(CASES))
def test_structures_equal_enumeration_in_value_and_gradient(name):
    (value, gradient), (expected, slope) = both(name)
    assert np.isfinite(expected)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-8), gradient, slope)


def test_gradients_in_the_arguments_are_those_of_finite_differences():
    @ppl.model
    def chain(table, ys):
        def step(z, y):
            z = ppl.sample("z", dist.Categorical(logits=table[z]))
            ppl.sample("y", dist.Normal(1.5 * z, 1.0), obs=y)
            return z, None

        lax.scan(step, jnp.asarray(0), ys)

    ys = jnp.asarray(DATA)
    f = lambda table: exact(chain(table, ys), []).log_density({})
    table, eps = jnp.log(jnp.asarray(STEP3)), 1e-5
    gradient = np.asarray(jax.grad(f)(table)).reshape(-1)
    rows = eps * jnp.eye(9).reshape(9, 3, 3)
    differences = jax.vmap(lambda d: (f(table + d) - f(table - d)) / (2 * eps))(rows)
    np.testing.assert_allclose(gradient, differences, atol=1e-8)


def test_no_mass_has_gradient_zero():
    @ppl.model
    def impossible():
        x = ppl.sample("x", dist.Normal(0.0, 1.0))
        z = ppl.sample("z", dist.Bernoulli(0.3))
        ppl.factor("f", jnp.where(z >= 0, -jnp.inf, x))

    value, gradient = jax.value_and_grad(lambda x: exact(impossible(), "x").log_density({"x": x}))(jnp.asarray(0.5))
    assert value == -jnp.inf
    assert np.isfinite(gradient)


# --- mutants ---------------------------------------------------------------------------------------------------------


def lanes_added(monkeypatch):
    monkeypatch.setattr(elimination, "_over_lanes", lambda factor: logsumexp(factor, axis=0))


def start_forgotten(monkeypatch):
    def absorb(self, factors, variables):
        self.absorbed = frozenset(variables)
        return [factor for factor in factors if not variables & set(factor.dims)]

    monkeypatch.setattr(Chain, "absorb", absorb)


def idle_dropped(monkeypatch):
    monkeypatch.setattr(elimination, "_idle", lambda *_: Named(jnp.zeros(())))


@pytest.mark.parametrize(
    ("mutate", "name"),
    [
        (lanes_added, "mixture"),
        (start_forgotten, "start_observed_and_end_observed"),
        (idle_dropped, "switch_of_three"),
    ],
)
def test_mutants_die(mutate, name, monkeypatch):
    (right, _), (expected, _) = both(name)
    mutate(monkeypatch)
    (wrong, _), _ = both(name)
    assert abs(right - expected) < 1e-9
    assert abs(wrong - expected) > 1e-3


# --- cost ------------------------------------------------------------------------------------------------------------


def equations(jaxpr):
    """All equations at any depth."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_a_mixture_of_2000_points_costs_its_components_a_point():
    @ppl.model
    def mixture(ys):
        mu = ppl.sample("mu", dist.Normal(0.0, 2.0).expand([5]))
        z = lambda: ppl.sample("z", dist.Categorical(probs=jnp.full(5, 0.2)))
        ppl.vmap(lambda y: ppl.sample("y", dist.Normal(mu[z()], 1.0), obs=y))(ys)

    mu, ys = jnp.linspace(-1.0, 1.0, 5), jnp.linspace(-2.0, 2.0, 2000)
    density = lambda mu: exact(mixture(ys), "mu").log_density({"mu": mu})
    points = logsumexp(dist.Normal(mu[:, None], 1.0).log_prob(ys[None]), axis=0) - np.log(5)
    np.testing.assert_allclose(density(mu), points.sum() + dist.Normal(0.0, 2.0).log_prob(mu).sum(), rtol=1e-10)
    sizes = [v.aval.size for e in equations(jax.make_jaxpr(density)(mu).jaxpr) for v in e.outvars]
    assert max(sizes) == 5 * 2000


def hidden_markov(start, table, means, ys):
    @ppl.model
    def model(start, table, means, ys):
        first = ppl.sample("first", dist.Categorical(probs=start))

        def step(z, y):
            ppl.sample("y", dist.Normal(means[z], 1.0), obs=y)
            return ppl.sample("z", dist.Categorical(probs=table[z])), None

        lax.scan(step, first, ys)

    return exact(model(start, table, means, ys), [])


def parameters(length, dtype):
    rng = np.random.default_rng(3)
    arrays = (
        rng.dirichlet(np.ones(10)),
        rng.dirichlet(np.ones(10), 10),
        3 * rng.normal(size=10),
        rng.normal(size=length),
    )
    return [jnp.asarray(array, dtype) for array in arrays]


def forward(start, table, means, ys):
    """The forward algorithm, scaled at every step, in float64."""
    alpha, total = np.asarray(start, np.float64), 0.0
    for y in np.asarray(ys):
        alpha = alpha * np.exp(-0.5 * (y - np.asarray(means)) ** 2) / np.sqrt(2 * np.pi)
        total += np.log(alpha.sum())
        alpha = alpha / alpha.sum() @ np.asarray(table)
    return total


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-4), (np.float64, 1e-9)])
def test_a_hidden_markov_model_of_1000_steps_is_the_forward_algorithm(dtype, rtol):
    arrays = parameters(1000, np.float64)
    with jax.enable_x64(dtype is np.float64):
        found = hidden_markov(*parameters(1000, dtype)).log_density({})
    assert found.dtype == dtype
    np.testing.assert_allclose(found, forward(*arrays), rtol=rtol)


def test_a_chain_is_one_loop_whatever_its_length():
    def count(length):
        density = lambda *arrays: hidden_markov(*arrays).log_density({})
        return sum(1 for _ in equations(jax.make_jaxpr(density)(*parameters(length, np.float64)).jaxpr))

    assert count(50) == count(1000) < 1000
