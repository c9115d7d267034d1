"""`ppl.MAMS`: known answers, bit-for-bit laws of runs (cuts, extension, second calls), one dimension, two devices.

Means and variances of a Gaussian are held to five standard errors or more of their Monte Carlo error, with a fixed key.
"""

import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.diagnostics.convergence import nested_r_hat
from ppl.inference import many_chain_sampler
from ppl.inference.many_chain_sampler import ends_of_windows

CHAINS, SETTINGS = 64, {"chains": 64, "warmup": 150, "draws": 40, "progress": False}
SCALES = np.array([0.01, 1.0, 30.0])
ROTATION = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]


@ppl.model
def gaussian(center):
    """Means `center`, covariance R diag(SCALES^2) R': condition 9e6."""
    x = ppl.sample("x", ppl.distributions.ImproperUniform(dist.constraints.real_vector, (), (3,)))
    ppl.factor("density", -0.5 * jnp.sum(((x - center) @ jnp.asarray(ROTATION, jnp.float32) / SCALES) ** 2))
    ppl.deterministic("first", x[0])


@ppl.model
def lone(y):
    x = ppl.sample("x", dist.Gamma(3.0, 2.0))
    ppl.sample("y", dist.Poisson(x), obs=y)


def infer(program, method=None, key=0, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ppl.errors.ConvergenceWarning)
        return ppl.infer(program, method or ppl.MAMS(), key=key, **(SETTINGS | settings))


@pytest.fixture(scope="module")
def posterior():
    return infer(gaussian(jnp.array([1.0, -2.0, 0.5])))


def test_a_badly_scaled_gaussian_is_right(posterior):
    along = (posterior.draws["x"].reshape(-1, 3) - np.array([1.0, -2.0, 0.5])) @ ROTATION / SCALES
    assert np.abs(along.mean(axis=0)).max() < 0.15
    np.testing.assert_allclose(along.var(axis=0), 1.0, atol=0.2)


def test_the_numbers_of_a_run(posterior):
    stats = posterior.stats
    assert all(x.shape == (CHAINS, 40) for x in stats.values())
    assert set(stats) == {"log_density", "acceptance", "diverging", "step_size", "steps", "length"}
    assert 0.7 < posterior.diagnostics["acceptance"] < 0.9
    assert (stats["steps"] == stats["steps"][:1]).all()
    assert np.unique(stats["step_size"]).size == 1
    np.testing.assert_array_equal(posterior.deterministic["first"], posterior.draws["x"][..., 0])


def test_cuts_change_nothing(posterior, monkeypatch):
    advance = many_chain_sampler.ManyChainSampler.advance
    monkeypatch.setattr(
        many_chain_sampler.ManyChainSampler, "advance", lambda self, carry, most: advance(self, carry, min(most, 7))
    )
    again = infer(gaussian(jnp.array([1.0, -2.0, 0.5])))
    np.testing.assert_array_equal(again.draws["x"], posterior.draws["x"])


def test_an_extension_is_a_longer_run(posterior):
    longer = infer(gaussian(jnp.array([1.0, -2.0, 0.5])), draws=60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ppl.errors.ConvergenceWarning)
        more = posterior.extend(20)
    np.testing.assert_array_equal(more.draws["x"], longer.draws["x"])


def test_other_data_need_no_compilation(posterior):
    compiled = many_chain_sampler._compiled(jax.default_backend())
    before = compiled._cache_size()
    infer(gaussian(jnp.array([0.0, 5.0, 0.5])), warmup=40, draws=15, thin=2)
    assert compiled._cache_size() == before


def test_what_was_learnt_can_be_reused(posterior):
    learnt = posterior.continuation.adaptation
    again = infer(gaussian(jnp.array([1.0, -2.0, 0.5])), ppl.MAMS(adaptation=learnt), key=1, warmup=0)
    np.testing.assert_allclose(again.diagnostics["step_size"], posterior.diagnostics["step_size"], rtol=1e-6)
    assert 0.7 < again.diagnostics["acceptance"] < 0.9


def test_a_checkpoint_is_taken_up(tmp_path, monkeypatch):
    program, file = gaussian(jnp.array([1.0, -2.0, 0.5])), tmp_path / "run.npz"
    whole = infer(program, checkpoint=file)

    def nothing_is_left(self, carry, transitions):
        raise AssertionError

    monkeypatch.setattr(many_chain_sampler.ManyChainSampler, "advance", nothing_is_left)
    np.testing.assert_array_equal(infer(program, checkpoint=file).draws["x"], whole.draws["x"])


def test_kept_functionals(posterior):
    kept = infer(gaussian(jnp.array([1.0, -2.0, 0.5])), keep=["first"])
    np.testing.assert_array_equal(kept.deterministic["first"], posterior.draws["x"][..., 0])
    assert not kept.draws


def test_one_dimension():
    """The posterior is Gamma(3 + 4, 2 + 1): mean 7 / 3, variance 7 / 9."""
    draws = infer(lone(4)).draws["x"]
    np.testing.assert_allclose([draws.mean(), draws.var()], [7 / 3, 7 / 9], atol=0.15)


def test_windows():
    for warmup in (1, 5, 11, 37, 300):
        ends = ends_of_windows(warmup)
        assert list(ends) == sorted(set(ends))
        assert ends[-1] <= warmup


def test_nested_r_hat_sees_a_warm_up_that_is_too_short():
    program, method = gaussian(jnp.array([1.0, -2.0, 0.5])), ppl.MAMS(superchains=8)
    values = []
    for warmup in (0, 150):
        draws = infer(program, method, warmup=warmup, draws=4).draws["x"]
        values.append(nested_r_hat(draws, 8).max())
    assert values[0] > 1.3 > 1.1 > values[1]


@pytest.mark.parametrize(("settings", "match"), [({"layout": "threads"}, "side by side"), ({"chains": 1}, "from many")])
def test_refusals(settings, match):
    with pytest.raises(ValueError, match="equal size"):
        infer(lone(4), ppl.MAMS(superchains=7))
    with pytest.raises(ValueError, match=match):
        infer(lone(4), **settings)


SCRIPT = """
import warnings, numpy as np, jax, ppl
from tests.inference.test_many_chains import gaussian, jnp
warnings.simplefilter("ignore")
assert len(jax.local_devices()) == 2
for chains, layout in ((64, None), (64, "vmap"), (63, None)):
    q = ppl.infer(gaussian(jnp.array([1.0, -2.0, 0.5])), ppl.MAMS(), key=0, chains=chains, warmup=2, draws=3,
                  layout=layout, progress=False)
    position = q.continuation.carries[0].state.position
    print(len(position.sharding.device_set), *np.asarray(q.draws["x"], float)[:2].ravel())
"""


@pytest.mark.slow
def test_chains_spread_over_two_devices():
    """A subprocess with two CPU devices: the same draws as on one, up to rounding, over a few transitions."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spread, alone, odd = (np.array(line.split(), float) for line in done.stdout.splitlines())
    assert [spread[0], alone[0], odd[0]] == [2, 1, 1]
    np.testing.assert_allclose(spread[1:], alone[1:], rtol=1e-2, atol=1e-2)
