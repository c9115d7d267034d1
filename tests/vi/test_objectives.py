"""Library objectives on finite programs: value and gradient against a sum over all draws, by float64 enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

import ppl
import ppl.distributions as dist
from ppl import vi
from ppl.errors import AddressError, MeasureError, StrategyError
from ppl.vi.multi_sample import left_out

TABLE = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
ROWS = np.array(list(itertools.product(range(2), range(3))))
CHOICES = {"a": ROWS[:, 0].astype(np.int32), "b": ROWS[:, 1].astype(np.int32)}
AT = 0.4


pytestmark = pytest.mark.usefixtures("float64")


def choose():
    a = ppl.sample("a", dist.Bernoulli(0.3))
    return a, ppl.sample("b", dist.Categorical(jnp.asarray(TABLE)[a]))


@ppl.model
def prior():
    choose()


@ppl.model
def model():
    a, b = choose()
    ppl.sample("y", dist.Normal(a + 0.7 * b, 1.0), obs=1.3)


@ppl.model
def guide(t):
    a = ppl.sample("a", dist.Bernoulli(jax.nn.sigmoid(t)))
    ppl.sample("b", dist.Categorical(logits=jnp.array([0.0, 1.0, 0.5]) * t * (1 + a)))


@ppl.model
def part(t, a):
    ppl.sample("b", dist.Categorical(logits=jnp.array([0.0, 1.0, 0.5]) * t * (1 + a)))


@ppl.model
def only_b():
    b = ppl.sample("b", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
    ppl.sample("y", dist.Normal(0.7 * b, 1.0), obs=1.3)


@ppl.model
def reverse(t, choices):
    ppl.sample("a", dist.Bernoulli(jax.nn.sigmoid(0.3 * t + choices["b"] - 0.5)))


def log_densities(program):
    return jax.vmap(program.log_density)(CHOICES)


def log_q(t):
    return log_densities(guide(t))


def log_mean(log_values):
    return logsumexp(log_values) - jnp.log(len(log_values))


def weighted(particles, of=log_mean):
    """E over all tuples of particles of a function of their log weights."""
    tuples = np.array(list(itertools.product(range(6), repeat=particles)))

    def value(t):
        q = log_q(t)
        return jnp.exp(q[tuples].sum(1)) @ jax.vmap(of)((log_densities(model()) - q)[tuples])

    return value


def hierarchical(outer, inner):
    """E over all draws of (u, x) and of the reverse model's u of the doubly weighted bound."""

    def value(t):
        q = log_q(t).reshape(2, 3)
        r = jnp.stack([jax.vmap(reverse(t, {"b": b}).log_density)({"a": np.arange(2)}) for b in range(3)], axis=1)
        p = jax.vmap(only_b().log_density)({"b": np.arange(3)})
        cases = np.array(list(itertools.product(range(3), itertools.product(range(2), repeat=inner))), dtype=object)
        x = np.array([case[0] for case in cases])
        u = np.array([list(case[1]) for case in cases])
        log_probs = q[u[:, 0], x] + r[u[:, 1:], x[:, None]].sum(1)
        gains = p[x] - jax.vmap(log_mean)((q - r)[u, x[:, None]])
        tuples = np.array(list(itertools.product(range(len(x)), repeat=outer)))
        return jnp.exp(log_probs[tuples].sum(1)) @ jax.vmap(log_mean)(gains[tuples])

    return value


def inclusive(t):
    p = log_densities(prior())
    return jnp.exp(p) @ (p - log_q(t))


def exclusive(t):
    q = log_q(t)
    return jnp.exp(q) @ (q - log_densities(prior()))


def told(t):
    p = log_densities(prior())
    q = jax.vmap(lambda a, b: part(t, a).log_density({"b": b}))(CHOICES["a"], CHOICES["b"])
    return jnp.exp(p) @ (p - q)


def with_draws(t):
    p, q = log_densities(model()), log_q(t)
    return jnp.mean(p - q) + jnp.exp(q) @ (q - p)


CASES = {
    "elbo": (lambda: vi.elbo(model(), guide), weighted(1)),
    "iwelbo": (lambda: vi.iwelbo(model(), guide, 2), weighted(2)),
    "renyi": (lambda: vi.renyi(model(), guide, 2, 0.5), weighted(2, lambda w: 2 * log_mean(0.5 * w))),
    "vimco": (lambda: vi.vimco(model(), guide, 3), weighted(3)),
    "hvi": (lambda: vi.hvi(only_b(), guide, reverse), hierarchical(1, 1)),
    "iwhvi": (lambda: vi.iwhvi(only_b(), guide, reverse, 3), hierarchical(1, 3)),
    "diwhvi": (lambda: vi.diwhvi(only_b(), guide, reverse, 2, 2), hierarchical(2, 2)),
    "forward_kl": (lambda: vi.forward_kl(prior(), guide), inclusive),
    "forward_kl of draws": (lambda: vi.forward_kl(CHOICES, guide), lambda t: -jnp.mean(log_q(t))),
    "forward_kl given": (lambda: vi.forward_kl(prior(), part, ("a",)), told),
    "symmetric_kl": (lambda: vi.symmetric_kl(prior(), guide), lambda t: inclusive(t) + exclusive(t)),
    "symmetric_kl of draws": (lambda: vi.symmetric_kl(model(), guide, CHOICES), with_draws),
}


def gaps(objective, brute):
    """How far value and derivative are from those of the sum over all draws."""
    value, slope = jax.jit(jax.value_and_grad(objective.expect))(AT)
    brute = jax.jit(brute)
    step = 1e-5
    return abs(value - brute(AT)), abs(slope - (brute(AT + step) - brute(AT - step)) / (2 * step))


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_the_definition(name):
    make, brute = CASES[name]
    value, slope = gaps(make(), brute)
    assert value < 1e-12
    assert slope < 1e-8


def test_mutants_die():
    """One auxiliary fewer, the other order, the control variate that sees its own particle."""
    assert gaps(vi.iwhvi(only_b(), guide, reverse, 2), hierarchical(1, 3))[0] > 1e-3
    assert gaps(vi.renyi(model(), guide, 2, 0.25), weighted(2, lambda w: 2 * log_mean(0.5 * w)))[0] > 1e-3


def test_the_control_variate_of_a_particle_does_not_see_it():
    weights = jnp.array([0.3, -1.0, 2.0])
    sees = jax.jacobian(left_out)(weights)
    assert np.allclose(jnp.diag(sees), 0.0)
    assert np.isclose(left_out(weights)[1], log_mean(jnp.array([0.3, 1.15, 2.0])))


def test_vimco_varies_less_than_the_score_function(key):
    keys = jax.random.split(key, 400)
    plain = jax.vmap(lambda k: vi.iwelbo(model(), guide, 4).grad(k, AT))(keys)
    held = jax.vmap(lambda k: vi.vimco(model(), guide, 4).grad(k, AT))(keys)
    assert held.std() < 0.5 * plain.std()


# --- random subsets --------------------------------------------------------------------------------------------------

DATA = np.array([1, 0, 1, 1])


@ppl.model
def coins(size):
    a = ppl.sample("a", dist.Bernoulli(0.3))
    with ppl.plate("coins", 4, subsample_size=size) as index:
        ppl.sample("y", dist.Bernoulli(0.2 + 0.5 * a), obs=jnp.asarray(DATA)[index])


@ppl.model
def coin_guide(t):
    ppl.sample("a", dist.Bernoulli(jax.nn.sigmoid(t)))


def test_the_mean_over_all_subsets_is_the_elbo_of_all_data(key):
    whole = vi.elbo(coins(4), coin_guide).expect(AT)
    subsets = np.array(list(itertools.permutations(range(4), 2)))

    def at(subset):
        return vi.elbo(coins(2).intervene({"coins": subset}), coin_guide).expect(AT)

    each = jax.vmap(at)(subsets)
    assert np.isclose(each.mean(), whole, atol=1e-12)
    drawn = jax.vmap(lambda k: vi.elbo(coins(2), coin_guide).value(k, AT))(jax.random.split(key, 64))
    assert np.allclose(np.unique(drawn.round(9)), np.unique(each.round(9)))  # two values; false alarm 2^-63


# --- sequential ------------------------------------------------------------------------------------------------------


@ppl.model
def steps():
    a = ppl.sample("a", dist.Bernoulli(0.3))
    ppl.sample("y", dist.Normal(1.0 * a, 1.0), obs=1.3)
    b = ppl.sample("b", dist.Bernoulli(0.2 + 0.5 * a))
    ppl.sample("z", dist.Normal(1.5 * b - a, 1.0), obs=0.4)


@ppl.model
def steps_guide(t):
    a = ppl.sample("a", dist.Bernoulli(jax.nn.sigmoid(t)))
    ppl.sample("b", dist.Bernoulli(jax.nn.sigmoid(0.5 * t + a)))


def slopes(objective):
    """The derivative that an objective estimates, and the finite difference of its own exact value."""
    value = jax.jit(objective.expect)
    return jax.jit(jax.grad(objective.expect))(AT), (value(AT + 1e-5) - value(AT - 1e-5)) / 2e-5


@pytest.mark.slow
def test_vsmc_is_unbiased_and_the_biased_one_is_not():
    slope, wanted = slopes(vi.vsmc(steps(), steps_guide, 2))
    assert abs(slope - wanted) < 1e-8
    slope, wanted = slopes(vi.biased_vsmc(steps(), steps_guide, 2))
    assert abs(slope - wanted) > 1e-3


def test_vsmc_with_one_particle_is_the_elbo():
    one = jax.jit(vi.vsmc(steps(), steps_guide, 1).expect)(AT)
    assert np.isclose(one, vi.elbo(steps(), steps_guide).expect(AT), atol=1e-12)


# --- a chain in the guide --------------------------------------------------------------------------------------------


@ppl.model
def line():
    x = ppl.sample("x", dist.Normal(0.0, 1.0))
    ppl.sample("y", dist.Normal(x, 0.5), obs=2.0)


@ppl.model
def line_guide(t):
    ppl.sample("x", dist.Normal(t, 0.8))


def test_langevin_steps_make_a_bound_tighter_and_keep_the_evidence(key):
    at, keys = (AT, jnp.log(0.5)), jax.random.split(key, 20_000)
    still = jax.vmap(lambda k: vi.annealed_elbo(line(), line_guide, 0).value(k, at))(keys)
    plain = jax.vmap(lambda k: vi.elbo(line(), line_guide).value(k, AT))(keys)
    assert np.allclose(still, plain)
    moved = jax.vmap(lambda k: vi.annealed_elbo(line(), line_guide, 8).value(k, at))(keys)
    evidence = dist.Normal(0.0, 1.25**0.5).log_prob(2.0)
    assert plain.mean() < moved.mean() - 0.3
    assert moved.mean() < evidence
    weights = jnp.exp(moved - evidence)  # of mean one; false alarm 1e-6: 4.9 standard errors
    error = 4.9 * weights.std() / len(keys) ** 0.5
    assert abs(weights.mean() - 1) < error < 0.05  # so that an evidence that is wrong by 10% is seen


def test_the_gradient_through_a_chain_is_the_difference_at_one_key(key):
    objective = vi.annealed_elbo(line(), line_guide, 3)
    at = jnp.array([AT, -0.7])
    value = jax.jit(lambda p: objective.value(key, (p[0], p[1])))
    found = jnp.stack(objective.grad(key, (at[0], at[1])))
    steps = 1e-5 * jnp.eye(2)
    assert np.allclose(found, [(value(at + s) - value(at - s)) / 2e-5 for s in steps], atol=1e-7)


# --- a marginal in the guide -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_iwhvi_is_the_elbo_of_a_marginal_by_sir():
    def marginal(t):
        return guide(t).marginal(["b"], ppl.SIR(2, lambda kept: reverse(t, kept)))

    found = vi.elbo(only_b(), marginal)
    keys = jax.random.split(jax.random.key(0), 4000)
    values = jax.vmap(lambda k: found.value(k, AT))(keys)
    exact = vi.iwhvi(only_b(), guide, reverse, 2).expect(AT)
    assert abs(values.mean() - exact) < 4.9 * values.std() / len(keys) ** 0.5  # false alarm 1e-6
    less = vi.hvi(only_b(), guide, reverse).expect(AT)  # mutant: one auxiliary
    assert abs(values.mean() - less) > 4.9 * values.std() / len(keys) ** 0.5


# --- refusals --------------------------------------------------------------------------------------------------------


@ppl.model
def empty(t):
    ppl.deterministic("t", t)


@ppl.model
def wide(t):
    ppl.sample("s", dist.Normal(t, 1.0))


@ppl.model
def narrow():
    ppl.sample("s", dist.HalfNormal(1.0))


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(AddressError, match=r"makes no choice at 'a' \(test_objectives.py"):
        vi.elbo(model(), empty).value(0, AT)
    with pytest.raises(StrategyError, match="do not nest"):
        vi.elbo(narrow(), wide).value(0, AT)
    with pytest.raises(MeasureError, match="weighs its draws at 'y'"):
        vi.forward_kl(model(), guide)
    with pytest.raises(ValueError, match="at least 2"):
        vi.vimco(model(), guide, 1)
    with pytest.raises(ValueError, match="order 1"):
        vi.renyi(model(), guide, 2, 1.0)
    with pytest.raises(TypeError, match="returned a float"):
        vi.elbo(model(), lambda t: 1.0).value(0, AT)
    with pytest.raises(AddressError, match="Expected: the same addresses"):
        vi.hvi(only_b(), guide, lambda t, choices: prior()).value(0, AT)
