"""`ppl.ParticleGibbs`, `ppl.PMMH` and their kernels on a model whose posterior a grid and a Kalman filter tell.

Statistical tests compare means with the truth at six Monte Carlo standard errors, from effective sample sizes; both
methods' kernels are checked exactly in `tests/laws/test_particle_mcmc.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, MeasureError
from ppl.inference import State, conditional_smc, cycle, on, particle_gibbs, pmmh, random_walk

YS = np.array([0.4, 1.1, 0.3, -0.8, -1.5, -0.2, 0.9, 1.6], np.float32)
STEPS = len(YS)


@ppl.model
def walk(ys, steps=STEPS):
    s = ppl.sample("s", dist.LogNormal(-0.3, 0.4))

    def step(x, y):
        x = ppl.sample("x", dist.Normal(0.9 * x, s))
        return x, ppl.sample("y", dist.Normal(x, 0.6), obs=y)

    return jax.lax.scan(step, jnp.float32(0.0), ys, length=steps)[1]


@ppl.model
def unrolled(ys):
    s = ppl.sample("s", dist.LogNormal(-0.3, 0.4))
    x = jnp.float32(0.0)
    for t in range(2):
        x = ppl.sample(f"x{t}", dist.Normal(x, s))
        ppl.sample(f"y{t}", dist.Normal(x, 1.0), obs=ys[t])


def log_likelihood(s):
    mean, variance, total = 0.0, 0.0, 0.0
    for y in YS:
        mean, variance = 0.9 * mean, 0.81 * variance + s**2
        spread = variance + 0.36
        total -= 0.5 * (np.log(2 * np.pi * spread) + (y - mean) ** 2 / spread)
        mean, variance = mean + variance / spread * (y - mean), variance * 0.36 / spread
    return total


@pytest.fixture(scope="module")
def truth():
    """Mean and standard deviation of log s, by a grid."""
    grid = np.linspace(-2.5, 1.5, 400)
    logs = np.array([log_likelihood(np.exp(u)) - 0.5 * ((u + 0.3) / 0.4) ** 2 for u in grid])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    mean = weights @ grid
    return mean, np.sqrt(weights @ (grid - mean) ** 2)


@pytest.fixture(scope="module")
def gibbs():
    return ppl.infer(walk(YS), ppl.ParticleGibbs(20), key=1, chains=4, warmup=300, draws=1500, progress=False)


@pytest.fixture(scope="module")
def marginal():
    return ppl.infer(walk(YS), ppl.PMMH(50, thin=4), key=2, chains=4, warmup=300, draws=1500, progress=False)


@pytest.mark.parametrize("method", ["gibbs", "marginal"])
@pytest.mark.slow
def test_the_parameter_has_its_posterior(method, truth, request):
    draws = np.log(np.asarray(request.getfixturevalue(method).draws["s"]))
    ess = effective(draws)
    assert abs(draws.mean() - truth[0]) < 6 * truth[1] / np.sqrt(ess)
    assert abs(draws.std() / truth[1] - 1) < 0.2


def effective(draws):
    """Effective sample size from batch means of 50 draws."""
    batches = draws.reshape(-1, 50).mean(axis=1)
    return draws.var() / (batches.var(ddof=1) / len(batches))


@pytest.mark.parametrize("method", ["gibbs", "marginal"])
@pytest.mark.slow
def test_posterior_draws_include_the_states_and_forecasts_work(method, request):
    posterior = request.getfixturevalue(method)
    assert posterior.draws["x"].shape == (4, 1500, len(YS))
    ahead = posterior.predict(walk(None), key=3)
    residual = np.asarray(ahead["y"]).mean((0, 1)) - np.asarray(posterior.draws["x"]).mean((0, 1))
    assert np.abs(residual).max() < 0.1


@pytest.mark.slow
def test_the_path_is_renewed_and_stats_tell(gibbs, marginal):
    assert gibbs.stats["0/renewed"].mean() > 0.7
    assert 0.05 < marginal.stats["accepted"].mean() < 0.6
    assert marginal.method == "PMMH"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ppl.errors.ConvergenceWarning")
@pytest.mark.parametrize("method", [ppl.ParticleGibbs(5), ppl.PMMH(10)])
def test_a_checkpoint_goes_on_bit_for_bit(method, tmp_path):
    settings = {"key": 4, "chains": 2, "warmup": 40, "draws": 60, "progress": False}
    whole = ppl.infer(walk(YS), method, **settings)
    ppl.infer(walk(YS), method, **settings, checkpoint=tmp_path / "run")
    again = ppl.infer(walk(YS), method, **settings, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(whole.draws["x"], again.draws["x"])


def test_kernels_compose():
    mixed = cycle(pmmh(5, proposal=0.5), on("s", random_walk(0.3)), on("x", conditional_smc(5, "killing", "ancestor")))
    state = State({"s": jnp.float32(1.0), "x": jnp.zeros(len(YS))}, {})
    new = mixed(walk(YS))(state).sample(5)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert (new.choices["x"] != 0).any()


def test_states_of_a_program_without_loops_are_named():
    program = unrolled(jnp.array([0.5, 1.0]))
    state = State({"s": jnp.float32(1.0), "x0": jnp.float32(0.1), "x1": jnp.float32(0.2)}, {})
    assert sorted(particle_gibbs(4, states="x*")(program)(state).sample(0).choices) == ["s", "x0", "x1"]
    assert sorted(pmmh(4, "s")(program)(state).sample(0).choices) == ["s", "x0", "x1"]
    with pytest.raises(MeasureError, match="do not fall into parameters and states"):
        pmmh(4)(program)
    with pytest.raises(AddressError, match="'z'"):
        pmmh(4, "z")(program)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="particles"):
        ppl.PMMH(0)
