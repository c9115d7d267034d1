"""A filter fed one observation at a time: the batch filter draw by draw, resumed bit for bit, with missing data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import FileFormatError, MeasureError, ShapeError
from ppl.inference.online import _step
from ppl.inference.online_steps import compensated

Z_MILLION = 4.89
"""A standard normal exceeds it in absolute value with probability 1e-6."""
YS = jnp.array([0.5, 1.0, 0.2])
LOG_EVIDENCE = -2.981926
"""Kalman, A = .8, Q = .2, R = .3: shared/references/smc.md."""


@ppl.model
def start():
    return ppl.sample("x", dist.Normal(0.0, 1.0)), jnp.float32(0.0)


@ppl.model
def move(state, y, present):
    """The first state is met at the first observation: `age` says which step it is."""
    x, age = state
    noise = jnp.where(age == 0.0, 1e-6, jnp.sqrt(0.2))
    x = ppl.sample("x", dist.Normal(jnp.where(age == 0.0, x, 0.8 * x), noise))
    ppl.sample("y", dist.Normal(x, jnp.sqrt(0.3)).mask(present), obs=y)
    return x, age + 1.0


@ppl.model
def near(state, y, present):
    x, age = state
    mean, variance = jnp.where(age == 0.0, x, 0.8 * x), jnp.where(age == 0.0, 1e-12, 0.2)
    gain = jnp.where(present, variance / (variance + 0.3), 0.0)
    ppl.sample("x", dist.Normal(mean + gain * (y - mean), jnp.sqrt((1.0 - gain) * variance)))


def fed(online, state, ys, present=None):
    present = jnp.ones(len(ys), bool) if present is None else jnp.asarray(present)
    for y, here in zip(ys, present, strict=True):
        state = online.step(state, y, here)
    return state


def same(left, right):
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("scheme", "threshold", "proposal"),
    [("systematic", 0.9, None), ("multinomial", None, None), ("stratified", 0.5, near)],
)
@pytest.mark.slow
def test_one_by_one_is_the_batch_filter_draw_by_draw(key, scheme, threshold, proposal):
    online = ppl.OnlineFilter(start(), move, 100, proposal, scheme, threshold)
    state = fed(online, online.init(key), YS)
    method = ppl.SMC(100, scheme, threshold, "filter")
    batch = ppl.infer(online.program(YS, jnp.ones(3, bool)), method, key=key)
    np.testing.assert_allclose(state.particles[0], batch.history.filtered["step/x"][-1], atol=1e-6)
    weights = batch.history.log_weights[-2]
    np.testing.assert_allclose(state.log_weights, weights - np.logaddexp.reduce(weights), atol=1e-5)
    assert abs(state.log_evidence - batch.log_evidence.estimate) < 1e-5
    assert int(state.step) == 3


def test_many_steps_at_once_are_the_same_steps(key):
    online = ppl.OnlineFilter(start(), move, 100)
    state = online.init(key)
    together = online.steps(state, YS, jnp.ones(3, bool))
    for one, other in zip(jax.tree.leaves(together)[:-1], jax.tree.leaves(fed(online, state, YS))[:-1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def evidences():
    """Log evidences of 1,000 runs of 32 particles: bootstrap and guided."""
    found = {}
    for name, proposal in (("bootstrap", None), ("guided", near)):
        online = ppl.OnlineFilter(start(), move, 32, proposal, threshold=0.7)
        run = lambda key, online=online: online.steps(online.init(key), YS, jnp.ones(3, bool)).log_evidence
        found[name] = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(3), 1_000)), np.float64)
    return found


@pytest.mark.parametrize("name", ["bootstrap", "guided"])
def test_the_evidence_is_kalmans(evidences, name):
    """A z-test over independent runs, false alarm 1e-6. Mutant: the evidence of a filter that forgets a step."""
    ratios = np.exp(evidences[name] - LOG_EVIDENCE)
    error = ratios.std(ddof=1) / np.sqrt(len(ratios))
    assert abs(ratios.mean() - 1.0) < Z_MILLION * error
    online = ppl.OnlineFilter(start(), move, 32, threshold=0.7)
    run = lambda key: online.steps(online.init(key), YS[:2], jnp.ones(2, bool)).log_evidence
    short = np.exp(np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(4), 500))) - LOG_EVIDENCE)
    assert abs(short.mean() - 1.0) > Z_MILLION * short.std() / np.sqrt(500)


def test_a_missing_observation_weighs_nothing(key):
    """NaN where it is missing: the weights stay, the particles move."""
    online = ppl.OnlineFilter(start(), move, 200)
    before = fed(online, online.init(key), YS[:2])
    after = online.step(before, jnp.float32(jnp.nan), jnp.array(False))
    assert abs(after.log_evidence - before.log_evidence) < 1e-6
    assert np.isfinite(after.log_weights).all()
    assert not np.array_equal(after.particles[0], before.particles[0])


def test_saved_and_resumed_bit_for_bit(key, tmp_path):
    online = ppl.OnlineFilter(start(), move, 50)
    half = fed(online, online.init(key), YS[:2])
    online.save(tmp_path / "state.safetensors", half)
    again = online.load(tmp_path / "state.safetensors")
    same(again, half)
    same(fed(online, again, YS[2:]), fed(online, half, YS[2:]))
    same(fed(online, half, YS[2:]), fed(online, online.init(key), YS))
    other = ppl.OnlineFilter(start(), move, 60)
    with pytest.raises(FileFormatError, match="the filter that saved it"):
        other.load(tmp_path / "state.safetensors")


def test_a_step_is_compiled_once(key):
    online = ppl.OnlineFilter(start(), move, 40)
    count = _step._cache_size()
    state = fed(online, online.init(key), YS)
    assert _step._cache_size() == count + 1
    fed(online, state, YS)
    assert _step._cache_size() == count + 1


def test_forecasts_have_the_law_of_the_future(key):
    """One and two steps ahead of a filter with a known mean; 4.89 standard errors of 20,000 draws.

    The state is certain, x = 2: x' ~ N(1.6, .2), y' ~ N(1.6, .5), x'' ~ N(1.28, .328). A mutant that gives back the
    placeholder as the observation is far off.
    """
    online = ppl.OnlineFilter(start(), move, 100)
    state = fed(online, online.init(key), YS)
    state = state._replace(particles=(jnp.full(100, 2.0), state.particles[1]))
    found = online.forecast(state, 2, key, jnp.full(2, 77.0), jnp.ones(2, bool), draws=20_000)
    x, y = found.states[0], found.observations["y"]
    assert x.shape == y.shape == (20_000, 2)
    for draws, mean, variance in (
        (x[:, 0], 1.6, 0.2),
        (y[:, 0], 1.6, 0.5),
        (x[:, 1], 1.28, 0.328),
        (y[:, 1], 1.28, 0.628),
    ):
        assert abs(draws.mean() - mean) < Z_MILLION * np.sqrt(variance / 20_000)
        assert abs(draws.var() - variance) < Z_MILLION * variance * np.sqrt(2 / 20_000)


def test_forecasts_start_from_the_weights(key):
    online = ppl.OnlineFilter(start(), move, 4)
    state = online.init(key)
    lone = state._replace(
        particles=(jnp.array([0.0, 50.0, 0.0, 0.0]), state.particles[1]), log_weights=jnp.log(jnp.array([0, 1.0, 0, 0]))
    )
    found = online.forecast(lone, 1, key, jnp.zeros(1), jnp.ones(1, bool), draws=9)
    np.testing.assert_allclose(found.states[0], 50.0, atol=1e-3)


def test_all_particles_lost_is_a_result_and_not_nan(key):
    @ppl.model
    def impossible(state, y):
        x, age = state
        ppl.factor("never", jnp.where(y > 0, -jnp.inf, 0.0) + 0.0 * x)
        return x, age

    online = ppl.OnlineFilter(start(), impossible, 10)
    state = online.step(online.init(key), jnp.float32(1.0))
    assert state.log_evidence == -jnp.inf
    again = online.step(state, jnp.float32(-1.0))
    assert again.log_evidence == -jnp.inf
    assert not np.isnan(again.log_weights).any()
    with pytest.raises(MeasureError, match="'never'"):
        online.forecast(state, 1, key, jnp.zeros(1))


def test_errors_say_what_does_not_fit(key):
    online = ppl.OnlineFilter(start(), lambda state, y: start().map(_half), 10)
    with pytest.raises(ShapeError, match="return the new state alone"):
        online.step(online.init(key), jnp.float32(0.0))
    filtered = ppl.OnlineFilter(start(), move, 10)
    with pytest.raises(ValueError, match="one entry a step"):
        filtered.forecast(filtered.init(key), 3, key, jnp.zeros(2), jnp.ones(2, bool))


def _half(value):
    return value[0]


def test_the_evidence_of_a_long_run_keeps_its_digits():
    """A million terms of -1.4 in single precision: compensated to 1e-7 of the sum; a plain sum is off by 1e-4."""

    def add(carry, term):
        (total, rest), plain = carry
        return (compensated(total, rest, term), plain + term), None

    zero = jnp.float32(0.0)
    ((total, _), plain), _ = jax.lax.scan(add, ((zero, zero), zero), jnp.full(1_000_000, -1.4, jnp.float32))
    exact = 1_000_000 * float(np.float32(-1.4))
    assert abs(float(total) - exact) < 1e-7 * abs(exact)
    assert abs(float(plain) - exact) > 1e-4 * abs(exact)
