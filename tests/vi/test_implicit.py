"""Implicit pathwise derivatives, without noise: the derivative of each draw is integrated over all draws.

    integral p(x) f'(x) dx/dtheta dx  =  d/dtheta integral p(x) f(x) dx

Both sides by the same quadrature. An earlier look with 400,000 draws found 0.0045 for the mixture where the right side
is 0.0039; the last test says what the standard error of such a mean is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import ppl
import ppl.distributions as dist
from ppl import vi
from ppl.errors import StrategyError
from ppl.semantics.protocol import TOP
from ppl.vi.implicit_derivatives import moved, von_mises_cdf
from ppl.vi.strategy import Node

NODE = Node(None, TOP)  # pyright: ignore[reportArgumentType]  (it is for messages)
Z = 4.892  # two-sided, false-alarm rate 1e-6
CIRCLE = np.linspace(-np.pi, np.pi, 8001)[:-1]
LINE = np.linspace(-15.0, 15.0, 8001)


pytestmark = pytest.mark.usefixtures("float64")


def cost(x):
    return jnp.sin(x) + 0.3 * jnp.cos(2 * x)


# --- von Mises -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concentration", [0.3, 2.0, 40.0])
def test_von_mises_probabilities_agree_with_scipy(concentration):
    got = von_mises_cdf(jnp.asarray(CIRCLE), concentration)
    np.testing.assert_allclose(got, scipy.stats.vonmises.cdf(CIRCLE, concentration), atol=1e-11)


@pytest.mark.parametrize("concentration", [0.3, 2.0, 40.0, 400.0])
def test_von_mises_derivatives_agree_with_the_integral_of_the_densitys(concentration):
    """`dF/dk = integral of p (cos t - I_1(k) / I_0(k))`, with 400 nodes where the package has 64."""
    widths = min(np.pi, 8 / np.sqrt(concentration))
    angles = np.linspace(-widths, widths, 41)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    t = 0.5 * angles[:, None] * (nodes + 1)[None]
    density = np.exp(concentration * (np.cos(t) - 1)) / (2 * np.pi * scipy.special.i0e(concentration))
    ratio = scipy.special.i1e(concentration) / scipy.special.i0e(concentration)
    wanted = 0.5 * angles * ((density * (np.cos(t) - ratio)) @ weights)
    slopes = jax.vmap(jax.grad(von_mises_cdf, argnums=1), in_axes=(0, None))
    got = jax.jit(slopes)(jnp.asarray(angles), jnp.float64(concentration))
    np.testing.assert_allclose(got, wanted, atol=1e-9)


# --- the whole derivative, integrated --------------------------------------------------------------------------------


def mixture(t):
    normals = dist.Normal(jnp.stack([t, -2 * t]), jnp.stack([jnp.float64(1.0), t]))
    return dist.MixtureSameFamily(dist.Categorical(jnp.stack([t, 1 - t])), normals)


def general_mixture(t):
    parts = [dist.Normal(t, 1.0), dist.Logistic(-2 * t, t)]
    return dist.MixtureGeneral(dist.Categorical(jnp.stack([t, 1 - t])), parts, support=dist.constraints.real)


def von_mises(t):
    return dist.VonMises(0.5 * t, 2.0 * t)


CASES = {"mixture": (mixture, LINE), "general": (general_mixture, LINE), "von Mises": (von_mises, CIRCLE)}


def slopes_at(law, t, points, move=moved):
    """The derivative of the cost of each draw."""
    return jax.jvp(lambda t: cost(move(law(t), points, NODE)), (t,), (jnp.ones_like(t),))[1]


def integrated(law, grid, move=moved):
    """Both sides, and the standard deviation of one draw's derivative."""
    points, step = jnp.asarray(grid), grid[1] - grid[0]

    @jax.jit
    def sides(t):
        mass = jnp.exp(law(t).log_prob(points)) * step
        slopes = slopes_at(law, t, points, move)
        right = jax.grad(lambda t: jnp.sum(jnp.exp(law(t).log_prob(points)) * cost(points)) * step)(t)
        left = jnp.sum(mass * slopes)
        return left, right, jnp.sqrt(jnp.sum(mass * slopes**2) - left**2)

    with jax.numpy_rank_promotion("allow"):  # NumPyro's mixtures need it where values are more than the law's batch
        return [float(side) for side in sides(jnp.float64(0.4))]


@pytest.mark.parametrize("name", CASES)
def test_the_integrated_derivative_is_that_of_the_expectation(name):
    left, right, _ = integrated(*CASES[name])
    np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-9)


def test_a_wrong_sign_or_a_lost_density_is_seen():
    def opposite(law, points, node):
        value = jax.lax.stop_gradient(points)
        return 2 * value - moved(law, points, node)

    def unweighted(law, points, node):
        value = jax.lax.stop_gradient(points)
        density = jax.lax.stop_gradient(jnp.exp(law.log_prob(value)))
        return value + density * (moved(law, points, node) - value)

    for mutant in (opposite, unweighted):
        left, right, _ = integrated(mixture, LINE, mutant)
        assert abs(left - right) > 1e-3


def test_the_noise_of_the_mixtures_mean_explains_the_gap():
    _, right, sd = integrated(mixture, LINE)
    error = sd / np.sqrt(400_000)
    assert abs(right - 0.0039) < 5e-4
    assert abs(0.0045 - right) < Z * error


# --- student-t: the sampler's own derivative -------------------------------------------------------------------------


def test_student_t(key):
    """Against quadrature; 20,000 draws, false-alarm rate 1e-6."""

    def law(t):
        return dist.StudentT(5 * t, 0.3 * t, t)

    def slope(key, t):
        return jax.grad(lambda t: cost(moved(law(t), law(t).sample(key), NODE)))(t)

    t, grid = jnp.float64(1.5), jnp.linspace(-2000.0, 2000.0, 800_001)
    wanted = jax.grad(lambda t: jnp.sum(jnp.exp(law(t).log_prob(grid)) * cost(grid)) * (grid[1] - grid[0]))(t)
    got = jax.jit(jax.vmap(slope, in_axes=(0, None)))(jax.random.split(key, 20_000), t)
    assert abs(got.mean() - wanted) < Z * got.std() / np.sqrt(len(got))


# --- batches ---------------------------------------------------------------------------------------------------------


def test_expanded_laws_are_their_elements():
    """Ranks may not be promoted silently in the tests."""
    points, weights = jnp.array([[0.3, -1.2, 0.8], [2.0, 0.1, -0.4]]), jnp.array([0.4, 0.5, 0.6])
    direction = jnp.array([1.0, 2.0, -0.5])

    def whole(ts):
        pairs = dist.Normal(jnp.stack([ts, -2 * ts], -1), jnp.ones((3, 2)))
        law = dist.MixtureSameFamily(dist.Categorical(jnp.stack([ts, 1 - ts], -1)), pairs)
        return moved(law.expand([2, 3]).to_event(2), points, NODE)

    def element(t, x):
        pair = dist.Normal(jnp.stack([t, -2 * t]), 1.0)
        return moved(dist.MixtureSameFamily(dist.Categorical(jnp.stack([t, 1 - t])), pair), x, NODE)

    def one_by_one(ts):
        return jnp.stack([jnp.stack([element(ts[j], points[i, j]) for j in range(3)]) for i in range(2)])

    got = jax.jit(lambda ts: jax.jvp(whole, (ts,), (direction,)))(weights)
    wanted = jax.jit(lambda ts: jax.jvp(one_by_one, (ts,), (direction,)))(weights)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_lanes_are_their_choices(key):
    """In lanes, the derivative is the sum of the lanes' (von Mises laws turned by their own location)."""

    @vi.objective
    def turned(t):
        def lane(shift):
            x = ppl.sample("x", dist.VonMises(t + shift, 50.0).expand([2]).to_event(1), grad=vi.implicit())
            return jnp.sum(x)

        return jnp.sum(ppl.vmap(lane)(jnp.array([0.1, -0.5])))

    np.testing.assert_allclose(turned.grad(key, 0.4), 4.0, rtol=1e-9)


def test_a_choice_without_a_cumulative_probability_is_refused():
    cost = vi.objective(lambda t: ppl.sample("x", dist.Bernoulli(t), grad=vi.implicit()) * 1.0)
    with pytest.raises(StrategyError, match=r"(?s)'x' \(test_implicit.py:\d+\).*BernoulliProbs.*vi.score"):
        cost.grad(0, 0.4)
