"""`FiniteMeasure`: arithmetic by hand, equality that can fail, absent choices, showing it, its use inside a program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, DegenerateWeightsError, ShapeError


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def measure(masses, values):
    return ppl.FiniteMeasure(
        jnp.log(jnp.asarray(masses)), jax.tree.map(jnp.asarray, values, is_leaf=lambda x: isinstance(x, list))
    )


def die():
    """Mass 2; the point 1 twice, the point 9 of mass zero."""
    return measure([0.5, 0.25, 0.0, 0.75, 0.5], [1, 2, 9, 1, 3])


# --- arithmetic ------------------------------------------------------------------------------------------------------


def test_mass_and_expectation():
    assert float(die().mass) == pytest.approx(2.0)
    assert float(die().log_mass) == pytest.approx(np.log(2.0))
    assert float(die().expectation(lambda x: x)) == pytest.approx(1.25 + 0.5 + 1.5)
    both = die().expectation(lambda x: {"square": x**2, "pair": jnp.stack([x, -x])})
    assert float(both["square"]) == pytest.approx(1.25 + 1.0 + 4.5)
    np.testing.assert_allclose(both["pair"], [3.25, -3.25])


def test_points_without_mass_do_not_count_in_an_expectation():
    assert float(die().expectation(lambda x: jnp.where(x == 9, jnp.inf, 1.0))) == pytest.approx(2.0)


def test_normalize_map_condition():
    assert float(die().normalize().mass) == pytest.approx(1.0)
    assert float(die().normalize().expectation(lambda x: x)) == pytest.approx(3.25 / 2)
    odd = die().condition(lambda x: x % 2 == 1)
    assert float(odd.mass) == pytest.approx(1.75)
    parity = die().map(lambda x: x % 2).merged()
    assert dict(zip(parity.values.tolist(), np.round(parity.weights, 12).tolist(), strict=True)) == {0: 0.25, 1: 1.75}


def test_merged_adds_sorts_and_drops():
    merged = die().merged()
    assert merged.values.tolist() == [1, 2, 3]
    np.testing.assert_allclose(merged.weights, [1.25, 0.25, 0.5])
    noisy = measure([0.5, 0.25], [0.1 + 0.2, 0.3]).merged()
    np.testing.assert_allclose(noisy.weights, [0.75])
    pairs = measure([0.1, 0.2, 0.3], {"a": [1, 1, 1], "b": [[0.0, 2.0], [0.0, 2.0], [2.0, 0.0]]}).merged()
    np.testing.assert_allclose(pairs.weights, [0.3, 0.3])


def test_no_mass_is_an_error_that_says_so():
    nothing = die().condition(lambda x: x == 9)
    with pytest.raises(DegenerateWeightsError, match="log mass -inf.*\n.*impossible"):
        nothing.normalize()
    assert len(nothing.merged().weights) == 0
    assert nothing.merged().log_mass == -jnp.inf
    assert "0 points, mass 0" in repr(nothing)


def test_distance_sees_values_masses_and_scale():
    one = measure([0.25, 0.75], [3, 4])
    assert one.distance(measure([0.5, 0.25, 0.25], [4, 3, 4])) < 1e-15
    assert one.distance(measure([0.25, 0.75], [4, 3])) == pytest.approx(0.5)
    assert one.distance(measure([0.25, 0.75], [3, 5])) == pytest.approx(0.75)
    assert one.distance(measure([0.5, 1.5], [3, 4])) == pytest.approx(0.75)
    assert not one.allclose(measure([0.25 + 1e-5, 0.75 - 1e-5], [3, 4]))
    assert one.allclose(measure([0.25 + 1e-8, 0.75 - 1e-8], [3, 4]))
    assert np.isnan(one.distance(measure([np.nan, 0.75], [3, 4])))
    assert not one.allclose(measure([np.nan, 0.75], [3, 4]))


# --- choices, also absent ones ---------------------------------------------------------------------------------------


@ppl.model
def branching():
    """a = 1: b in {0, 1, 2}; a = 0: no b. Twice, in a loop; and a vector c."""

    def step(state, p):
        a = ppl.sample("a", dist.Bernoulli(p))
        draw = lambda: ppl.sample("b", dist.Categorical(jnp.asarray([0.5, 0.25, 0.25])))
        return state + lax.cond(a == 1, draw, lambda: 0), None

    total, _ = lax.scan(step, 0, jnp.asarray([0.25, 0.5]))
    ppl.sample("c", dist.Bernoulli(jnp.asarray([0.5, 0.25])))
    return total


def test_an_absent_choice_is_not_a_zero():
    b = branching().enumerate().marginal("b").merged()
    found = {
        tuple(x if made else None for x, made in zip(point, mask, strict=True)): float(weight)
        for point, mask, weight in zip(b.values.tolist(), b.presence.tolist(), b.weights, strict=True)
    }
    law = {None: 1.0, 0: 0.5, 1: 0.25, 2: 0.25}
    made = ({None: 0.75, **dict.fromkeys(range(3), 0.25)}, {None: 0.5, **dict.fromkeys(range(3), 0.5)})
    expected = {(x, y): made[0][x] * law[x] * made[1][y] * law[y] for x in law for y in law}
    assert found == pytest.approx(expected)


def test_absent_choices_are_compared_as_absent_and_shown_as_a_dash():
    values, masses = jnp.asarray([0, 0]), jnp.log(jnp.asarray([0.5, 0.5]))
    some = ppl.FiniteMeasure(masses, values, {"x": values}, {"x": jnp.asarray([True, False])})
    always = ppl.FiniteMeasure(masses, values, {"x": values}, {"x": jnp.asarray([True, True])})
    unmasked = ppl.FiniteMeasure(masses, values, {"x": values})
    for kept in ("x", ["x"]):
        assert some.marginal(kept).distance(always.marginal(kept)) == pytest.approx(0.5)
        assert unmasked.marginal(kept).distance(always.marginal(kept)) == 0.0
        assert len(some.marginal(kept).merged().weights) == 2
    assert repr(some.marginal(["x"])).splitlines()[1:] == ["  0.5          x=-", "  0.5          x=0"]
    text = repr(branching().enumerate().marginal(["a", "b"]))
    assert "a=[0, 0]  b=-\n" in text
    assert "a=[0, 1]  b=[-, 2]" in text


def test_conditioning_on_choices_is_conditioning_the_program():
    """Where a choice is not made it agrees with every value, in both."""
    program = branching()
    finite = program.enumerate()
    for choices in ({"b": [0, 2]}, {"a": [1, 0], "b": [1, 1]}, {"a": [0, 0], "c": [1, 0]}, {"c": [0, 1]}):
        given = {address: jnp.asarray(value) for address, value in choices.items()}
        expected = program.condition(given).enumerate().mass
        assert float(finite.condition(given).mass) == pytest.approx(float(expected), abs=1e-12)
    assert float(finite.condition({"b": jnp.asarray([0, 2])}).mass) == pytest.approx((0.75 + 0.125) * (0.5 + 0.125))


def test_unknown_addresses_and_wrong_shapes():
    finite = branching().enumerate()
    for wrong in (lambda: finite.marginal("d"), lambda: finite.condition({"d": 0})):
        with pytest.raises(AddressError, match="'d'.\nIts addresses: 'a', 'b', 'c'"):
            wrong()
    with pytest.raises(ShapeError, match=r"'c' with an array of shape \(\).\nExpected: shape \(2,\)"):
        finite.condition({"c": 0})


# --- showing it ------------------------------------------------------------------------------------------------------


def test_table_and_html():
    lines = repr(die()).splitlines()
    assert lines[0] == "FiniteMeasure: 3 points, mass 2"
    assert [line.split() for line in lines[1:]] == [["1.25", "1"], ["0.5", "3"], ["0.25", "2"]]
    html = die()._repr_html_()
    assert html.count("<tr>") == 4
    assert "<code>3</code>" in html
    many = measure(np.arange(1.0, 31.0), np.arange(30))
    assert repr(many).splitlines()[-1].strip() == "... 10 more"
    assert "10 more" in many._repr_html_()
    traced = []
    jax.jit(lambda m: traced.append(repr(m)))(die())
    assert traced[0].startswith("FiniteMeasure")


# --- inside a program ------------------------------------------------------------------------------------------------


def test_sampled_observed_enumerated(key):
    law = measure([0.2, 0.5, 0.3], {"x": [[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]], "n": [7, 8, 7]})

    @ppl.model
    def program(y):
        value = ppl.sample("v", law)
        ppl.sample("w", measure([0.25, 0.75], [0, 1]), obs=y)
        return value["n"] * 10

    bound = program(jnp.asarray(1))
    assert bound.enumerate().distance(measure([0.375, 0.375], [70, 80])) < 1e-12
    trace = bound.simulate(key)
    assert (trace.choices["v/n"] == 7) == (trace.choices["v/x"][0] == 1.0)
    np.testing.assert_allclose(trace.log_density, np.log(0.375), rtol=1e-10)
    assert bound.log_density({"v/n": jnp.asarray(7), "v/x": jnp.asarray([3.0, 4.0])}) == -jnp.inf
    np.testing.assert_allclose(bound.marginal(["v/n", "v/x"]).enumerate().mass, 0.75, rtol=1e-10)


def test_a_measure_that_is_not_normalised_keeps_its_mass(key):
    program = ppl.model(lambda: ppl.sample("x", die()))()
    assert float(program.enumerate().mass) == pytest.approx(2.0)
    trace = program.simulate(key)
    np.testing.assert_allclose(trace.log_weight, np.log(2.0), rtol=1e-10)
    assert trace.choices["x"] in (1, 2, 3)


def test_draws_follow_the_masses(key):
    """Statistical: 20,000 draws of a point of probability 0.625; 5 standard errors of 0.0034 (false alarm: 6e-7)."""
    draws = np.asarray(die().sample(key, (20_000,)))
    assert abs((draws == 1).mean() - 0.625) < 5 * 0.0034
    assert set(np.unique(draws)) == {1, 2, 3}
    np.testing.assert_allclose(np.exp(die().log_prob(jnp.asarray(1))), 1.25)
    assert die().log_prob(jnp.asarray(9)) == die().log_prob(jnp.asarray(4)) == -jnp.inf
