"""Sites inside `scan`, `while_loop` and `fori_loop`: shapes, densities, and what an unbounded loop cannot answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.errors import UnboundedError
from ppl.inference.drawing import draw
from ppl.semantics.handlers import Density, Simulate
from tests.semantics.coherence import coherent, normal


@ppl.model
def walk(x0, ys, reverse):
    """A random walk with observations; also in reverse."""

    def step(x, y):
        x = ppl.sample("x", dist.Normal(0.9 * x, 0.5))
        ppl.sample("y", dist.Normal(x, 2.0), obs=y)
        ppl.factor("f", -0.1 * x)
        return x, ppl.deterministic("twice", 2.0 * x)

    return lax.scan(step, x0, ys, reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_scores_each_step_at_its_own_index(key, reverse):
    ys = jnp.array([0.5, -1.0, 2.0, 0.25])
    program = walk(jnp.array(1.5), ys, reverse)
    trace = coherent(program, key)
    x = np.asarray(trace.choices["x"])
    order = slice(None, None, -1) if reverse else slice(None)
    path = np.concatenate([[1.5], x[order]])
    expected = normal(path[1:], 0.9 * path[:-1], 0.5) + normal(ys[order], path[1:], 2.0) - 0.1 * x.sum()
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-5)
    np.testing.assert_allclose(trace.value[0], path[-1])
    np.testing.assert_allclose(trace.value[1], 2 * x, rtol=1e-6)
    np.testing.assert_allclose(trace.deterministic["twice"], 2 * x, rtol=1e-6)
    np.testing.assert_allclose(trace.log_weight, expected - normal(path[1:], 0.9 * path[:-1], 0.5), rtol=1e-5)


def test_reverse_scan_keeps_the_draws_of_each_index(key):
    @ppl.model
    def noise(reverse):
        return lax.scan(lambda c, _: (c, ppl.sample("e", dist.Normal(0.0, 1.0))), 0.0, None, length=4, reverse=reverse)

    forward, backward = noise(False).simulate(key), noise(True).simulate(key)
    np.testing.assert_array_equal(forward.choices["e"], backward.choices["e"])
    assert len(np.unique(forward.choices["e"])) == 4


def test_nested_scans_have_both_axes_from_the_outside_in(key):
    @ppl.model
    def grid(start):
        def column(c, _):
            c = c + ppl.sample("inner", dist.Normal(c, 1.0))
            return c, c

        def row(c, shift):
            c = ppl.sample("outer", dist.Normal(c + shift, 3.0))
            return lax.scan(column, c, None, length=3)[0], c

        return lax.scan(row, start, jnp.array([10.0, 20.0]))[0]

    trace = coherent(grid(0.5), key)
    expected, c = 0.0, 0.5
    for i, shift in enumerate((10.0, 20.0)):
        outer = float(trace.choices["outer"][i])
        expected += normal(outer, c + shift, 3.0)
        c = outer
        for j in range(3):
            inner = float(trace.choices["inner"][i, j])
            expected += normal(inner, c, 1.0)
            c += inner
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-5)
    np.testing.assert_allclose(trace.value, c, rtol=1e-5)
    assert len(np.unique(trace.choices["inner"])) == 6


def test_fori_loop_of_known_length_is_a_scan(key):
    @ppl.model
    def climb(n):
        return lax.fori_loop(0, n, lambda i, c: ppl.sample("x", dist.Normal(c + i, 0.5)), 1.0)

    trace = coherent(climb(3), key)
    x = np.asarray(trace.choices["x"])
    np.testing.assert_allclose(trace.log_density, normal(x, [1.0, x[0] + 1, x[1] + 2], 0.5), rtol=1e-5)
    np.testing.assert_array_equal(trace.value, x[-1])


def test_a_scan_of_no_steps_counts_for_nothing(key):
    @ppl.model
    def empty(xs):
        return lax.scan(lambda c, x: (c, ppl.sample("x", dist.Normal(x, 1.0))), 2.5, xs)[0]

    trace = empty(jnp.zeros(0)).simulate(key)
    assert trace.choices["x"].shape == (0,)
    assert (float(trace.log_density), float(trace.value)) == (0.0, 2.5)


@ppl.model
def until_above(threshold):
    """A choice before the loop, and one a step of it."""
    start = ppl.sample("start", dist.Normal(0.0, 1.0))

    def body(state):
        count, total = state
        return count + 1, total + ppl.sample("step", dist.HalfNormal(1.0))

    return start, lax.while_loop(lambda s: s[1] < threshold, body, (0, 0.0))


def test_while_loop_draws_anew_each_step(key):
    _, (count, total) = until_above(jnp.array(10.0)).sample(key)
    assert float(total) >= 10.0
    _, (fewer, part) = until_above(jnp.array(5.0)).sample(key)
    assert 0 < int(fewer) < int(count)
    np.testing.assert_allclose(total / count, jnp.sqrt(2 / jnp.pi), atol=0.6)
    # Equal steps would make the two means equal.
    assert abs(float(total / count - part / fewer)) > 1e-6


def test_while_loop_can_be_simulated_but_neither_recorded_nor_scored(key):
    program = until_above(jnp.array(3.0))
    trace = program.simulate(key)
    assert float(trace.value[1][1]) >= 3.0
    assert "until_above" in repr(trace)
    for ask in (
        lambda: trace.choices,
        lambda: trace.log_density,
        lambda: program.log_density({"start": jnp.array(0.0)}),
        lambda: program.terms({"start": jnp.array(0.0)}),
        lambda: program.replay({"start": jnp.array(0.0)}),
        lambda: program.generate(key, {"step": jnp.array(0.0)}),
        lambda: program.condition({"step": jnp.array(0.0)}),
        lambda: program.intervene({"step": jnp.array(0.0)}),
    ):
        with pytest.raises(UnboundedError, match=r"'step' \(test_loops\.py:\d+\)") as caught:
            ask()
        assert "lax.scan or lax.fori_loop" in str(caught.value)


def test_choices_outside_a_while_loop_can_still_be_set(key):
    program = until_above(jnp.array(3.0)).intervene({"start": jnp.array(7.5)})
    assert float(program.sample(key)[0]) == 7.5
    same = until_above(jnp.array(3.0)).sample(key)[1]
    np.testing.assert_array_equal(program.sample(key)[1], same)


def test_a_site_in_the_condition_of_a_while_loop_is_refused(key):
    @ppl.model
    def coin_flips():
        return lax.while_loop(lambda i: ppl.sample("stop", dist.Bernoulli(0.5)) == 0, lambda i: i + 1, 0)

    with pytest.raises(UnboundedError, match="stop"):
        coin_flips().sample(key)


def test_lanes_of_a_while_loop_draw_apart(key):
    """The loop's index differs by lane once lanes stop at different steps; a shared key must not make draws equal."""

    @ppl.model
    def race(thresholds):
        def run(threshold):
            def body(state):
                return state[0] + 1, state[1] + ppl.sample("step", dist.HalfNormal(1.0))

            return lax.while_loop(lambda s: s[1] < threshold, body, (0, 0.0))

        return ppl.vmap(run)(thresholds)

    count, total = race(jnp.array([6.0, 6.0, 6.0, 2.0])).sample(key)
    assert len(np.unique(total)) == 4
    assert int(count[3]) < int(count[:3].min()) + 1
    assert jax.tree.all(jax.tree.map(lambda x: bool(jnp.all(x > 0)), (count, total)))


def weighed(weight):
    """One choice, then a loop that weighs without end in sight."""
    x = ppl.sample("x", dist.Bernoulli(0.25))

    def body(state):
        weight()
        return state + 1

    return x, lax.while_loop(lambda count: count < 3, body, 0)


def factors():
    ppl.factor("w", 0.5)


def observes():
    ppl.sample("w", dist.Normal(0.0, 1.0), obs=0.5)


@pytest.mark.parametrize("weight", [factors, observes])
def test_weights_in_a_while_loop_are_refused_not_dropped(weight, key):
    """Whoever asks for no weight can run the program."""
    program = ppl.Program.of(weighed, (), {"weight": weight})
    assert int(program.sample(key)[1]) == 3
    for ask in (
        lambda: program.log_density({"x": jnp.array(0)}),
        lambda: program.run(Density(), {"x": jnp.array(0)}),
        lambda: program.run(Simulate(key), {}),
        lambda: program.simulate(key).log_weight,
        lambda: ppl.weighted(program).program.sample(key),
        lambda: draw(program, key),
        lambda: ppl.infer(program, ppl.Importance(10), key=0, check_data=False),
        lambda: ppl.infer(program, ppl.SMC(10), key=0, check_data=False),
    ):
        with pytest.raises(UnboundedError, match=r"'w' \(test_loops\.py:\d+\)"):
            ask()
