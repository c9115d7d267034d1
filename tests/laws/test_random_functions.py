"""Laws 10 to 13: kernels curry, random functions, flattening a random measure, de Finetti."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.tree_util import Partial
from scipy import stats
from scipy.special import roots_jacobi

import ppl
import ppl.distributions as dist
from ppl.errors import NotFiniteError
from ppl.semantics.functions import random_function, random_table

FALSE_ALARM = 1e-6


def same(left, right, atol=1e-6):
    return left.enumerate().allclose(right.enumerate(), atol)


# --- 10: currying, beta and eta --------------------------------------------------------------------------------------


@ppl.model
def kernel(x, y):
    """A law with two arguments."""
    return ppl.sample("k", dist.Binomial(2, (1.0 + x + 2.0 * y) / 7.0))


@ppl.model
def inputs():
    x = ppl.sample("x", dist.Bernoulli(0.25))
    y = ppl.sample("y", dist.Categorical(jnp.array([0.5, 0.3, 0.2])))
    return x, y


@ppl.model
def bind(law, f):
    return ppl.sample("second", f(*ppl.sample("first", law)))


def curry(f):
    return lambda x: lambda y: f(x, y)


@ppl.model
def bind_in_turn(law, curried):
    x, y = ppl.sample("first", law)
    return ppl.sample("second", curried(x)(y))


@ppl.model
def point(x, y):
    return jnp.asarray(x), jnp.asarray(y)


def test_law_10_currying():
    assert same(bind(inputs(), kernel), bind_in_turn(inputs(), curry(kernel)))


def test_law_10_beta_a_kernel_at_a_point_is_its_body():
    assert same(bind(point(1, 2), kernel), kernel(1, 2))


def test_law_10_eta_a_wrapped_kernel_is_the_kernel():
    assert same(bind(inputs(), lambda x, y: kernel(x, y)), bind(inputs(), kernel))


def test_law_10_a_kernel_that_forgets_its_argument_is_killed():
    assert not same(bind(inputs(), lambda x, y: kernel(0 * x, y)), bind(inputs(), kernel))


def test_law_10_functions_are_values():
    """A program of functions, applied: bind through a drawn closure is bind through its arguments."""

    @ppl.model
    def drawn_closure():
        slope = ppl.sample("slope", dist.Binomial(2, 0.25))
        return Partial(lambda a, x: a * x + 1, slope)

    @ppl.model
    def applied(functions):
        f = ppl.sample("f", functions)
        return f(2), f(3)

    @ppl.model
    def direct():
        slope = ppl.sample("slope", dist.Binomial(2, 0.25))
        return slope * 2 + 1, slope * 3 + 1

    assert same(applied(drawn_closure()), direct())


# --- 11: random functions --------------------------------------------------------------------------------------------

PROBS = jnp.array([0.25, 0.5, 0.7])


def closure():
    """f(x) is the bit that x names: a closure over three choices."""
    bits = [ppl.sample(f"bit{i}", dist.Bernoulli(PROBS[i])) for i in range(3)]
    return Partial(lambda bits, x: jnp.stack(bits)[x], bits)


def table():
    """The same random function as one vector of choices."""
    rows = ppl.vmap(lambda p: ppl.sample("bit", dist.Bernoulli(p)))(PROBS)
    return Partial(lambda rows, x: rows[x], rows)


def forgetful():
    """A mutant: every call draws afresh, so each value has the right law and they do not belong to one function."""
    calls = iter(range(100))
    return lambda x: ppl.sample(f"call{next(calls)}", dist.Bernoulli(PROBS[x]))


@ppl.model
def joint(function, arguments):
    f = function()
    return tuple(f(x) for x in arguments)


@pytest.mark.parametrize("arguments", [(0,), (2,), (0, 1), (2, 2), (1, 0, 1), (2, 1, 0, 2)])
def test_law_11_closures_and_tables_have_one_joint_law(arguments):
    assert same(joint(closure, arguments), joint(table, arguments))


def test_law_11_one_argument_does_not_suffice():
    assert same(joint(forgetful, (1,)), joint(table, (1,)))
    assert not same(joint(forgetful, (1, 1)), joint(table, (1, 1)), 1e-2)


def test_random_tables_are_iid_tables():
    @ppl.model
    def drawn(arguments):
        f = random_table("f", dist.Categorical(jnp.array([0.5, 0.3, 0.2])), 3)
        return tuple(f(i) for i in arguments)

    @ppl.model
    def separate():
        f = [ppl.sample(f"f{i}", dist.Categorical(jnp.array([0.5, 0.3, 0.2]))) for i in range(3)]
        return f[2], f[0], f[2]

    assert same(drawn((2, 0, 2)), separate())
    assert drawn((0,)).sites["f"].shape == (3,)


def test_random_tables_of_programs_nest_their_addresses():
    @ppl.model
    def atom():
        return {"heads": ppl.sample("side", dist.Bernoulli(0.25)), "sum": ppl.sample("pips", dist.Binomial(2, 0.5))}

    @ppl.model
    def drawn():
        f = random_table("f", atom(), 2)
        return f(1)

    assert same(drawn(), atom())
    assert drawn().sites["f/pips"].shape == (2,)


def test_outside_its_domain_a_table_has_no_neighbours_value(key):
    @ppl.model
    def drawn():
        return random_table("f", dist.Normal(0.0, 1.0), 3)

    f = drawn().sample(key)
    assert jnp.isnan(f(3))
    assert jnp.isnan(f(-1))
    assert not jnp.isnan(f(2))
    with pytest.raises(TypeError, match="Expected: an integer"):
        f(1.0)


@ppl.model
def lazy(f):
    return random_function("f", f)


def coin_at(key, x):
    return jax.random.bernoulli(key, PROBS[x]).astype(jnp.int32)


def cells(values):
    """The counts of the joint outcomes of 0/1 values, shape (draws, k)."""
    return np.bincount(np.asarray(values) @ 2 ** np.arange(values.shape[1]), minlength=2 ** values.shape[1])


def p_value(counts, program):
    """The chi-square test of counts against the exact joint law; cells of mass zero must be empty."""
    exact = program.enumerate().merged()
    expected = np.zeros(len(counts))
    codes = np.stack(exact.values, axis=1) @ 2 ** np.arange(len(exact.values))
    expected[codes] = exact.weights * counts.sum()
    if counts[expected == 0.0].any():
        return 0.0
    alive = expected > 0.0
    return stats.chisquare(counts[alive], expected[alive], sum_check=False).pvalue


def test_law_11_lazy_functions_and_tables_have_one_joint_law(key):
    """Statistical; false alarm 1e-6. The mutant draws from the key of the call and not of the argument."""
    arguments, draws = (2, 0, 2, 1), 4096
    functions = jax.vmap(lazy(coin_at).sample)(jax.random.split(key, draws))
    drawn = jax.jit(jax.vmap(lambda f: jnp.stack([f(x) for x in arguments])))(functions)
    assert p_value(cells(drawn), joint(table, arguments)) > FALSE_ALARM
    mutant = jax.vmap(lambda k: jnp.stack([coin_at(jax.random.fold_in(k, i), x) for i, x in enumerate((1, 1))]))
    fresh = mutant(jax.random.split(key, draws))
    assert p_value(cells(fresh[:, :1]), joint(table, (1,))) > FALSE_ALARM
    assert p_value(cells(fresh), joint(table, (1, 1))) < FALSE_ALARM


def bits_at(key, *_):
    return jax.random.bits(key)


def test_lazy_functions_are_functions(key):
    f = lazy(bits_at).sample(key)
    points = jnp.array([0.0, 1.5, -2.0, 1.5])
    one_by_one = jnp.stack([f(x) for x in points])
    np.testing.assert_array_equal(jax.vmap(f)(points), one_by_one)
    np.testing.assert_array_equal(jax.jit(jax.vmap(f))(points), one_by_one)
    np.testing.assert_array_equal(lax.scan(lambda c, x: (c, f(x)), 0, points[::-1])[1][::-1], one_by_one)
    assert one_by_one[1] == one_by_one[3]
    assert len(set(np.asarray(one_by_one).tolist())) == 3
    assert f(0.0) == f(-0.0)
    assert f(jnp.nan) == f(-jnp.nan)
    assert f(2) == f(jnp.int32(2)) != f(2.0)
    different = [(1, 2), (2, 1), (jnp.array([1, 2]),), (jnp.array([2, 1]),), (1,), (True,)]
    assert len({int(f(*arguments)) for arguments in different}) == 6


def test_a_seed_has_no_density_and_is_not_enumerable(key):
    program = lazy(bits_at)
    trace = program.simulate(key)
    assert trace.choices["f"].shape == (2,)
    assert trace.log_density == 0.0
    np.testing.assert_array_equal(program.replay(trace.choices).value(3), trace.value(3))
    with pytest.raises(NotFiniteError, match=r"'f' at test_random_functions.py:\d+ is drawn from Seed"):
        program.enumerate()


def test_each_lane_draws_its_own_function(key):
    @ppl.model
    def many():
        return ppl.vmap(lambda: random_function("f", bits_at), axis_size=3)()

    functions = many().sample(key)
    values = jax.vmap(lambda f: f(1.5))(functions)
    assert len(set(np.asarray(values).tolist())) == 3


# --- 12: flattening a random measure ---------------------------------------------------------------------------------

DICE = jnp.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])


@ppl.model
def random_die():
    return DICE[ppl.sample("which", dist.Bernoulli(0.25))]


@ppl.model
def rolled(dice):
    return ppl.sample("roll", dist.Categorical(ppl.sample("die", dice)))


@ppl.model
def mixture():
    return ppl.sample("roll", dist.Categorical(0.75 * DICE[0] + 0.25 * DICE[1]))


def test_law_12_a_random_measure_flattens_to_the_mixture():
    assert same(rolled(random_die()), mixture())


@pytest.mark.parametrize(("weight", "holds"), [(0.25, True), (0.75, False)])
def test_law_12_a_drawn_finite_measure_flattens(weight, holds):
    """The value of a program is a measure, and it is sampled; the wrong mixing weight is killed."""

    @ppl.model
    def random_measure():
        which = ppl.sample("which", dist.Bernoulli(weight))
        return ppl.FiniteMeasure(jnp.log(DICE[which]), jnp.arange(3))

    @ppl.model
    def flattened():
        return ppl.sample("roll", ppl.sample("measure", random_measure()))

    assert same(flattened(), mixture()) == holds


# --- 13: de Finetti --------------------------------------------------------------------------------------------------


@ppl.model
def urn(heads, tails, draws, added=1.0):
    """Polya's urn: draw a ball, put it back with one more of its colour."""

    def draw(state, _):
        h, t = state
        x = ppl.sample("ball", dist.Bernoulli(h / (h + t)))
        return (h + added * x, t + added * (1 - x)), x

    return lax.scan(draw, (heads, tails), None, length=draws)[1]


def beta_binomial(heads, tails, sequence):
    """The probability of a sequence when a beta-distributed coin is flipped, in closed form."""
    h, n = sequence.sum(axis=-1), sequence.shape[-1]
    beta = stats.betabinom(n, heads, tails)
    return beta.pmf(h) / np.array([stats.binom(n, 0.5).pmf(k) * 2**n for k in h])


@pytest.mark.parametrize(("added", "holds"), [(1.0, True), (0.5, False)])
def test_law_13_the_urn_is_a_beta_coin(added, holds):
    """Exact: the urn's enumerated law is the beta-binomial's; an urn that adds half a ball is killed."""
    exact = urn(jnp.array(2.0), jnp.array(1.5), 4, added).enumerate().merged()
    closed = beta_binomial(2.0, 1.5, np.asarray(exact.values))
    assert np.allclose(exact.weights, closed, atol=1e-6) == holds


def quadrature(heads, tails, points=8):
    """Gauss-Jacobi nodes and weights of a beta law: exact for polynomials of degree below 2 * points."""
    x, w = roots_jacobi(points, tails - 1.0, heads - 1.0)
    return jnp.asarray((1.0 + x) / 2.0), jnp.log(w / w.sum())


def test_law_13_the_urn_is_a_mixture_of_coins():
    """Exact: n flips are a polynomial of degree n in p, so a mixture over finitely many coins is the urn."""
    coins, log_weights = quadrature(2.0, 1.5)

    @ppl.model
    def mixed():
        p = ppl.sample("p", ppl.FiniteMeasure(log_weights, coins))
        return ppl.vmap(lambda: ppl.sample("flip", dist.Bernoulli(p)), axis_size=4)()

    assert same(mixed(), urn(jnp.array(2.0), jnp.array(1.5), 4), 1e-5)


def test_law_13_the_urn_is_exchangeable():
    exact = urn(jnp.array(2.0), jnp.array(1.5), 4).enumerate()
    for order in ([3, 1, 0, 2], [1, 0, 2, 3]):
        assert exact.map(lambda x, order=order: x[jnp.array(order)]).allclose(exact)
