"""Pathfinder: its curvature and Gaussians against dense formulas, starts where nothing else finds one, far tails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.diagnostics.convergence import r_hat
from ppl.errors import DegenerateWeightsError
from ppl.inference.flat import Flat
from ppl.inference.initial import Starts, starts_for
from ppl.inference.pathfinder import pathfinder_start
from ppl.numerics.lbfgs_path import Curvature, Height, gaussian_at, path

COVARIANCE = np.array([[4.0, 1.5, 0.0, 0.2], [1.5, 1.0, 0.1, 0.0], [0.0, 0.1, 25.0, 1.0], [0.2, 0.0, 1.0, 0.3]])
MEAN = np.array([3.0, -1.0, 50.0, 0.5])


def normal(x):
    gradient = -np.linalg.solve(COVARIANCE, x - MEAN)
    return float(0.5 * gradient @ (x - MEAN)), gradient


@pytest.fixture(scope="module")
def climbed():
    begin = np.array([-2.0, 4.0, 0.0, 7.0])
    return list(path(normal, Height(begin, *normal(begin))))


def dense(curvature):
    return np.stack([curvature.times(row) for row in np.eye(len(curvature.diagonal))])


def test_the_path_ends_at_the_mode_and_never_goes_down(climbed):
    np.testing.assert_allclose(climbed[-1][0].position, MEAN, atol=1e-2)
    heights = [here.log_density for here, _ in climbed]
    assert (np.diff(heights) > 0).all()


def test_the_curvature_is_symmetric_positive_and_meets_the_secant_equation(climbed):
    for _, curvature in climbed:
        matrix = dense(curvature)
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-8 * np.abs(matrix).max())
        assert np.linalg.eigvalsh(matrix).min() > 0
        np.testing.assert_allclose(matrix @ curvature.changes[-1], curvature.steps[-1], rtol=1e-6, atol=1e-9)


def test_a_pair_of_negative_curvature_is_not_taken(climbed):
    _, curvature = climbed[-1]
    assert curvature.grown(np.ones(4), -np.ones(4)) is curvature


def test_gaussians_have_the_mean_covariance_and_density_that_they_say(climbed, rng):
    """Draws are affine in the noise: its matrix times its transpose is H, and log q is the dense normal density."""
    here, curvature = climbed[3]
    gaussian, matrix = gaussian_at(here, curvature), dense(curvature)
    mean = here.position + matrix @ here.gradient
    assert gaussian is not None
    linear = gaussian.draws(np.eye(4))[0] - mean
    np.testing.assert_allclose(linear.T @ linear, matrix, rtol=1e-6, atol=1e-8)
    places, log_q = gaussian.draws(rng.standard_normal((5, 4)))
    away = places - mean
    expected = -0.5 * np.sum(away * np.linalg.solve(matrix, away.T).T, axis=1)
    expected -= 0.5 * np.linalg.slogdet(2 * np.pi * matrix)[1]
    np.testing.assert_allclose(log_q, expected, rtol=1e-6)


def test_an_indefinite_gaussian_is_none():
    curvature = Curvature(np.ones(2), np.array([[1.0, 0.0]]), np.array([[-0.1, 0.0]]))
    assert gaussian_at(Height(np.zeros(2), 0.0, np.zeros(2)), curvature) is None


# --- starts ----------------------------------------------------------------------------------------------------------


@ppl.model
def cornered(low):
    """Only a corner of the space is possible: 1e-3 of the cube of half-width 2, 1e-4 under the prior."""
    x = ppl.sample("x", dist.Normal(jnp.zeros(5), 1.0).to_event(1))
    ppl.factor("corner", jnp.where(jnp.all(x > low), -2.0 * jnp.sum((x - 3.0) ** 2), -jnp.inf))


def test_pathfinder_is_the_last_resort():
    """Of the 100 tries each is possible with chance 1e-3; of 1,024 looks in the widest cube none is with e^-19."""
    target = Flat(cornered(1.0))
    starts, log_density = Starts(target, jax.random.key(3)), jax.jit(target.log_density)
    tries = np.stack([starts(0, attempt) for attempt in range(100)])
    assert not np.isfinite(jax.vmap(log_density)(tries)).any()
    last = starts(0, 100)
    assert np.isfinite(log_density(last))
    assert (last > 1.0).all()
    assert abs(last.mean() - 2.4) < 0.8  # mode 12 / 5, sd of a mean 0.2; the first point in the corner is about 1.5


def test_a_run_that_needs_pathfinder():
    posterior = ppl.infer(cornered(1.0), ppl.NUTS(), key=3, chains=2, warmup=50, draws=20, progress=False)
    assert (np.asarray(posterior.draws["x"]) > 1.0).all()


@ppl.model
def prices(area, year, price):
    """The posterior is far from the origin, with scales from 0.01 to 1,000: data as they are, not standardised."""
    base = ppl.sample("base", dist.Normal(0.0, 1e5))
    slopes = ppl.sample("slopes", dist.Normal(jnp.zeros(2), 1e4).to_event(1))
    noise = ppl.sample("noise", dist.LogNormal(5.0, 3.0))
    with ppl.plate("n", 60):
        ppl.sample("price", dist.Normal(base + slopes[0] * area + slopes[1] * year, noise), obs=price)


@pytest.fixture(scope="module")
def houses():
    rng = np.random.default_rng(7)
    area, year = rng.uniform(50, 90, 60), rng.uniform(-20, 20, 60)
    price = 3000 + 400 * area - 90 * year + rng.normal(0, 800, 60)
    return prices(*(jnp.asarray(x, jnp.float32) for x in (area, year, price)))


def test_short_warm_up_from_a_far_tail(houses):
    settings = {"key": 1, "chains": 4, "warmup": 100, "draws": 300, "progress": False}
    posterior = ppl.infer(houses, ppl.NUTS(start="pathfinder"), **settings)
    slopes = np.asarray(posterior.draws["slopes"])
    assert abs(slopes[..., 0].mean() - 400) < 50
    assert r_hat(slopes).max() < 1.05
    other = ppl.infer(houses, ppl.NUTS(), **settings)
    assert posterior.diagnostics["warmup_steps"] < 0.6 * other.diagnostics["warmup_steps"]


def test_starts_lie_where_the_mass_is_and_depend_on_key_and_chain(houses):
    target = Flat(houses)
    first, again, other = (pathfinder_start(target, jax.random.key(1), chain) for chain in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first is not None
    assert other is not None
    assert not np.array_equal(first, other)
    noise = [np.exp(x[3]) for x in (first, other)]
    assert 400 < min(noise) < max(noise) < 1600


def test_many_chains_share_the_setting(houses):
    posterior = ppl.infer(houses, ppl.MAMS(start="pathfinder"), key=0, chains=16, warmup=150, draws=20, progress=False)
    assert abs(np.asarray(posterior.draws["slopes"])[..., 0].mean() - 400) < 50


# --- errors ----------------------------------------------------------------------------------------------------------


def test_no_finite_density_at_all():
    method = ppl.NUTS(start="pathfinder")
    with pytest.raises(
        DegenerateWeightsError, match=r"(?s)None of 4096 points that Pathfinder looked at.*corner.*-inf"
    ):
        ppl.infer(cornered(1e6), method, key=0, chains=1, warmup=5, draws=5, progress=False)
    with pytest.raises(DegenerateWeightsError, match="None of 100 starts, nor of 4096 more by Pathfinder, of chain 0"):
        ppl.infer(cornered(1e6), ppl.NUTS(), key=0, chains=1, warmup=5, draws=5, progress=False)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="start is 'mode'.\nExpected: None, \"pathfinder\", or values"):
        starts_for(Flat(cornered(1.0)), jax.random.key(0), "mode", lambda target, start: start)


@ppl.model
def improper(y):
    mu = ppl.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    with ppl.plate("n", 3):
        ppl.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_improper_priors():
    found = pathfinder_start(Flat(improper(jnp.array([101.0, 102.0, 100.0]))), jax.random.key(0), 0)
    assert found is not None
    assert abs(float(found[0]) - 101.0) < 4.0
