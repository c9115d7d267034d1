"""`vi.fit`: closed forms, resumption bit for bit, failures that name their site, minibatches, restarts."""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ppl
import ppl.distributions as dist
from ppl import vi
from ppl.errors import FileFormatError, FitError, ShapeError
from ppl.vi.fit_batches import Batches, batches_of
from ppl.vi.fit_optimizer import comparable

TRACED = []


def counted(rate):
    """Gradient descent that notes when it is traced."""

    def update(grads, state, params=None):
        del params
        TRACED.append(rate)
        return jax.tree.map(lambda g: -rate * g, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@vi.objective
def noisy(params, data):
    """Its minimum is at the data's mean; asymmetric about zero."""
    x = ppl.sample("x", dist.Normal(params["mean"], 0.1))
    return jnp.mean((x - data) ** 2)


DATA = jnp.array([1.0, 2.0, 6.0, -1.0])


def descend(data=DATA, **settings):
    given = {"optimizer": counted(0.05), "steps": 60, "key": 3, "args": (data,), "chunk": 64}
    return vi.fit(noisy, {"mean": 0.0, "name": "kept"}, **(given | settings))


@pytest.fixture(scope="module")
def whole():
    return descend()


def test_the_minimum_is_found_and_the_history_is_full(whole):
    assert abs(float(whole.params["mean"]) - 2.0) < 0.2  # its standard deviation is below 0.03
    assert whole.params["name"] == "kept"
    assert whole.history.shape == (60,)
    assert (whole.history != 0).all()
    assert whole.stopped == "steps"
    assert "after 60 steps (steps)" in repr(whole)


def test_new_data_steps_and_keys_need_no_compilation(whole):
    del whole
    before = len(TRACED)
    again = descend(DATA + 1.0, steps=50, key=4)
    assert again.steps == 50
    assert len(TRACED) == before


def test_how_a_fit_is_cut_does_not_matter(whole):
    short, long = descend(steps=17), descend(steps=60)
    np.testing.assert_array_equal(short.history, whole.history[:17])
    np.testing.assert_array_equal(long.history, whole.history)
    np.testing.assert_array_equal(long.params["mean"], whole.params["mean"])


def test_resumed_bit_for_bit(whole, tmp_path):
    path = tmp_path / "fit"
    first = descend(steps=23, checkpoint=path)
    assert first.steps == 23
    resumed = descend(checkpoint=path)
    np.testing.assert_array_equal(resumed.history, whole.history)
    np.testing.assert_array_equal(resumed.params["mean"], whole.params["mean"])
    for other, name in (({"key": 4}, "key"), ({"data": DATA + 1}, "data"), ({"optimizer": counted(0.06)}, "optimiser")):
        with pytest.raises(FileFormatError, match=f"of another fit: other .*{name}"):
            descend(checkpoint=path, **other)


def test_interrupted(whole, monkeypatch):
    calls, module = [], sys.modules["ppl.vi.fitting"]
    plain = module._Run.advanced

    def interrupting(self, track, count, reporter):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(count)
        return plain(self, track, count, reporter)

    monkeypatch.setattr(module._Run, "advanced", interrupting)
    found = descend(chunk=8)
    assert found.stopped == "interrupted"
    assert found.steps == sum(calls) < 60
    np.testing.assert_array_equal(found.history, whole.history[: sum(calls)])
    calls[:] = [0, 0, 0]
    with pytest.raises(KeyboardInterrupt):
        descend(chunk=8)


# --- conjugate models ------------------------------------------------------------------------------------------------


@ppl.model
def normal(y):
    x = ppl.sample("x", dist.Normal(1.0, 2.0))
    ppl.sample("y", dist.Normal(x, 1.0).expand([3]).to_event(1), obs=y)


@ppl.model
def law(params):
    ppl.sample("x", dist.Normal(params["mean"], jnp.exp(params["log_sd"])))


def test_conjugate_posterior_by_an_equinox_module():
    """Precision 1/4 + 3, mean (1/4 + sum y) / precision; the gradient's noise vanishes as the step size does."""

    class Params(eqx.Module):
        mean: jax.Array
        log_sd: jax.Array
        act: object = eqx.field(static=True)

    y = jnp.array([2.0, 3.0, 1.5])
    guide = lambda p: law({"mean": p.mean, "log_sd": p.log_sd})
    start = Params(jnp.zeros(()), jnp.zeros(()), jax.nn.relu)
    optimizer = optax.adam(optax.exponential_decay(0.05, 300, 0.1))
    settings = {"optimizer": optimizer, "steps": 1200, "key": 0}
    found = vi.fit(vi.elbo(normal(y), guide).average(8), start, **settings)
    assert found.params.act is jax.nn.relu
    np.testing.assert_allclose(found.params.mean, (0.25 + y.sum()) / 3.25, atol=0.02)
    np.testing.assert_allclose(found.params.log_sd, -0.5 * np.log(3.25), atol=0.02)


def test_optimisers_that_search_a_line():
    @vi.objective
    def banana(p):
        return (1.0 - p[0]) ** 2 + 100.0 * (p[1] - p[0] ** 2) ** 2

    found = vi.fit(banana, jnp.array([-1.0, 1.0]), optimizer=optax.lbfgs(), steps=60, key=0)
    np.testing.assert_allclose(found.params, [1.0, 1.0], atol=1e-3)


# --- stopping --------------------------------------------------------------------------------------------------------


def test_plateau_stops_at_the_stated_window(whole):
    rule = vi.Plateau(tolerance=0.5, window=7, patience=2)
    found = descend(stop=rule)
    ends = [n for n in range(7, 61, 7) if rule(whole.history[:n])]
    assert found.stopped == "stop"
    assert found.steps == ends[0] < 60
    np.testing.assert_array_equal(found.history, whole.history[: ends[0]])


def test_plateau_needs_every_change_small():
    rule = vi.Plateau(tolerance=0.1, window=2, patience=2)
    assert not rule(np.repeat([9.0, 3.0, 3.0], 2))
    assert rule(np.repeat([9.0, 3.0, 3.0, 3.1], 2))
    assert not rule(np.repeat([9.0, 3.0, 9.0, 9.0], 2))


# --- failures --------------------------------------------------------------------------------------------------------


@ppl.model
def edge(y):
    x = ppl.sample("x", dist.Normal(9.0, 5.0))
    ppl.sample("y", dist.Normal(0.0, jnp.sqrt(3.0 - x)), obs=y)


def test_a_failure_names_the_models_site_and_keeps_what_was_before():
    """The guide walks to x > 3, where the scale of y is no number."""
    settings = {"optimizer": optax.sgd(0.05), "steps": 500, "key": 0}
    with pytest.raises(
        FitError, match=r"(?s)is nan at step \d+ of the fit.*not sound: 'y' of 'edge' \(test_fit.py:"
    ) as e:
        vi.fit(vi.elbo(edge(0.0), law), {"mean": 0.0, "log_sd": -2.0}, **settings)
    found = e.value.fit
    assert found.stopped == "not finite"
    assert 0 < found.steps < 500
    assert np.isfinite(found.history).all()
    assert 0.5 < float(found.params["mean"]) < 3.5
    again = vi.fit(vi.elbo(edge(0.0), law), {"mean": 0.0, "log_sd": -2.0}, **(settings | {"steps": found.steps}))
    np.testing.assert_array_equal(again.params["mean"], found.params["mean"])


def test_a_failure_names_the_choice_the_slope_or_the_update():
    @vi.objective
    def drawn(p):
        return ppl.sample("a", dist.Normal(p, 1.0)) + ppl.sample("b", dist.Normal(jnp.sqrt(p), 1.0))

    with pytest.raises(
        FitError, match=r"at step 1 of the fit.\n.*not sound: 'b' \(test_fit.py:\d+\): 1 of its numbers"
    ):
        vi.fit(drawn, 0.5, optimizer=optax.sgd(2.0), steps=9, key=0)

    @vi.objective
    def rooted(p):
        return jnp.sqrt(p["a"]) + p["b"]

    with pytest.raises(FitError, match=r"gradient of <objective rooted> in \['a'\] is not finite at step 0"):
        vi.fit(rooted, {"a": 0.0, "b": 1.0}, optimizer=optax.sgd(0.1), steps=9, key=0)
    with pytest.raises(FitError, match=r"update of \['a'\], \['b'\] is not finite"):
        vi.fit(rooted, {"a": 1.0, "b": 1.0}, optimizer=optax.sgd(lambda _: jnp.inf), steps=9, key=0)


# --- restarts --------------------------------------------------------------------------------------------------------


def test_restarts_report_all_and_take_the_best_that_lives():
    """Two wells, the deeper at 2; a start at -9 is no number."""

    @vi.objective
    def wells(p):
        x = ppl.sample("x", dist.Normal(p, 0.05))
        return (x**2 - 4.0) ** 2 - x + 0.0 * jnp.sqrt(p + 5.0)

    starts = iter([2.5, -9.0])
    settings = {"optimizer": optax.sgd(0.01), "steps": 200, "key": 0}
    found = vi.fit(wells, -2.5, restarts=3, init=lambda key: next(starts), **settings)
    assert [one.stopped for one in found.restarts] == ["steps", "steps", "not finite"]
    assert [len(one.history) for one in found.restarts] == [200, 200, 0]
    assert found.best == 1
    assert abs(float(found.params) - 2.0) < 0.1
    assert found.restarts[0].average > found.average + 3.0
    assert float(found.restarts[2].params) == -9.0


# --- minibatches -----------------------------------------------------------------------------------------------------


def test_an_epoch_has_every_datum_once_and_the_next_another_order(key):
    batches, data = Batches(7, 2), jnp.arange(7)
    order = batches.order(key, 0)
    seen = [np.asarray(batches.cut((data,), batches.order(key, t), t)[0]) for t in range(6)]
    assert len(set(np.concatenate(seen[:3]).tolist())) == 6
    assert not np.array_equal(np.concatenate(seen[:3]), np.concatenate(seen[3:]))
    np.testing.assert_array_equal(batches.following(order, key, 2), order)
    np.testing.assert_array_equal(batches.following(order, key, 3), batches.order(key, 3))


def test_each_datum_is_in_a_batch_with_the_same_chance(key):
    """6,000 epochs, 7 counts of mean 2 / 7; false alarms 1e-6 in all: 5.5 standard deviations. Mutant: no shuffling."""
    batches, many = Batches(7, 2), 6000
    first = jax.vmap(lambda e: batches.order(key, e * 3)[:2])(jnp.arange(many))

    def far(picked):
        counts = np.bincount(np.asarray(picked).ravel(), minlength=7)
        return np.abs(counts - many * 2 / 7).max() / np.sqrt(many * 2 / 7 * 5 / 7)

    assert far(first) < 5.5
    assert far(jnp.broadcast_to(jnp.arange(2), (many, 2))) > 5.5


def test_minibatches_do_what_the_same_steps_by_hand_do(key):
    """Without noise, a fit by minibatches is gradient descent on the batches in their order."""

    @vi.objective
    def square(mean, data, scale):
        return scale * jnp.mean((mean - data) ** 2)

    data = jnp.array([1.0, 2.0, 6.0, -1.0, 3.0])
    found = vi.fit(square, 0.0, optimizer=optax.sgd(0.1), steps=5, key=key, args=(data, 0.5), batch_size=2)
    batches, mean = Batches(5, 2), 0.0
    for step in range(5):
        batch = batches.cut((data,), batches.order(key, step), step)[0]
        mean = mean - 0.1 * float(jnp.mean(mean - batch))
    np.testing.assert_allclose(found.params, mean, rtol=1e-5)


def test_data_that_cannot_be_cut():
    with pytest.raises(ShapeError, match=r"args\[0\] has 4, args\[1\] has 3"):
        batches_of((jnp.zeros(4), jnp.zeros((3, 2))), 2)
    assert batches_of((jnp.zeros(4), 2.0), 2) == Batches(4, 2)


# --- settings --------------------------------------------------------------------------------------------------------


def test_optimisers_are_equal_where_they_do_the_same():
    def make(rate):
        return comparable(
            optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(rate, 9)))
        )

    assert make(0.1) == make(0.1)
    assert hash(make(0.1)) == hash(make(0.1))
    assert make(0.1) != make(0.2)


def test_baselines_are_carried_on():
    @vi.objective
    def cost(logit):
        strategy = vi.score(baseline=vi.moving_average(0.5))
        b = ppl.sample("b", dist.Bernoulli(logits=logit), grad=strategy)
        return 7.0 + 0.0 * b

    found = vi.fit(cost, 0.3, optimizer=optax.sgd(0.1), steps=20, key=0)
    assert float(found.memory["b"].total / found.memory["b"].weight) == pytest.approx(7.0)
    one = vi.fit(cost, 0.3, optimizer=optax.sgd(0.1), steps=1, key=0)
    assert float(found.params) == float(one.params)  # after the first cost the baseline takes all of it away


def test_what_is_refused():
    with pytest.raises(ValueError, match="no float leaves"):
        vi.fit(noisy, {"mean": 1}, optimizer=optax.sgd(0.1), steps=1, key=0)
    with pytest.raises(ValueError, match="steps is 0"):
        descend(steps=0)
