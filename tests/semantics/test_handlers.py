"""Terms, replay, condition, substitute, intervene, generate and map, on one program with every construct."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError
from tests.semantics.coherence import coherent, flat_leaves, normal, same_choices


@ppl.model
def everything(y):
    """A site in each construct, an observation, two factors and a recorded value."""
    a = ppl.sample("a", dist.Normal(1.0, 2.0))
    _, path = lax.scan(lambda c, _: (ppl.sample("b", dist.Normal(c, 0.5)),) * 2, a, None, length=3)
    flag = ppl.sample("flag", dist.Bernoulli(0.25))
    c = lax.cond(flag == 1, lambda: ppl.sample("c", dist.Normal(a, 3.0)), lambda: a)
    d = ppl.vmap(lambda m: ppl.sample("d", dist.Normal(m, 0.25)))(path)
    ppl.factor("f", -0.5 * jnp.sum(d**2))
    ppl.factor("g", jnp.array([0.25, -1.0]))
    ppl.sample("y", dist.Normal(d, 4.0), obs=y)
    return ppl.deterministic("out", c + d.sum())


Y = jnp.array([0.5, -1.0, 2.0])
CHOICES = {
    "a": jnp.array(1.5),
    "b": jnp.array([1.0, 2.0, 3.0]),
    "flag": jnp.array(1),
    "c": jnp.array(-2.0),
    "d": jnp.array([0.5, -0.25, 0.75]),
}
D = np.asarray(CHOICES["d"], np.float64)
PRIOR = {
    "a": normal(1.5, 1.0, 2.0),
    "b": normal([1.0, 2.0, 3.0], [1.5, 1.0, 2.0], 0.5),
    "flag": np.log(0.25),
    "c": normal(-2.0, 1.5, 3.0),
    "d": normal(D, [1.0, 2.0, 3.0], 0.25),
}
LIKELIHOOD, FACTORS = normal(Y, D, 4.0), -0.5 * float(np.sum(D**2)) - 0.75
TOTAL = sum(PRIOR.values()) + LIKELIHOOD + FACTORS


def test_terms_are_those_of_the_closed_form():
    terms = everything(Y).terms(CHOICES)
    assert {a: float(jnp.sum(t)) for a, t in terms.prior.items()} == pytest.approx(PRIOR, rel=1e-5)
    assert float(jnp.sum(terms.likelihood["y"])) == pytest.approx(LIKELIHOOD, rel=1e-5)
    assert {a: t.shape for a, t in terms.factor.items()} == {"f": (), "g": (2,)}
    assert sum(float(jnp.sum(t)) for t in terms.factor.values()) == pytest.approx(FACTORS, rel=1e-5)
    assert terms.prior["b"].shape == terms.prior["d"].shape == (3,)
    assert float(everything(Y).log_density(CHOICES)) == pytest.approx(TOTAL, rel=1e-5)


def test_replay_is_deterministic():
    """Law 30."""
    first, second = everything(Y).replay(CHOICES), everything(Y).replay(CHOICES)
    for left, right in zip(flat_leaves(first.recorded), flat_leaves(second.recorded), strict=True):
        np.testing.assert_array_equal(left, right)
    assert {a: v.tolist() for a, v in first.choices.items()} == {a: v.tolist() for a, v in CHOICES.items()}
    np.testing.assert_allclose(first.value, -2.0 + D.sum(), rtol=1e-6)
    np.testing.assert_array_equal(first.deterministic["out"], first.value)
    np.testing.assert_array_equal(first.observed["y"], Y)
    assert float(first.log_density) == pytest.approx(TOTAL, rel=1e-5)


def test_generate_weighs_what_was_given_and_what_was_observed(key):
    program = everything(Y)
    given = {address: CHOICES[address] for address in ("a", "d")}
    trace = program.generate(key, given)
    for address in given:
        np.testing.assert_array_equal(trace.choices[address], CHOICES[address])
    terms = trace.terms
    expected = sum(float(jnp.sum(terms.prior[a])) for a in given) + LIKELIHOOD + FACTORS
    assert float(trace.log_weight) == pytest.approx(expected, rel=1e-5)
    assert float(trace.log_weight) == pytest.approx(
        PRIOR["a"] + normal(D, trace.choices["b"], 0.25) + LIKELIHOOD + FACTORS, rel=1e-5
    )
    assert float(program.generate(key, {}).log_weight) == float(program.simulate(key).log_weight)
    assert float(program.generate(key, CHOICES).log_weight) == pytest.approx(TOTAL, rel=1e-5)


def test_generate_draws_the_rest_as_simulate_does(key):
    free, given = everything(Y).simulate(key), everything(Y).generate(key, {"flag": CHOICES["flag"]})
    for address in ("a", "b", "d"):
        np.testing.assert_array_equal(free.choices[address], given.choices[address])


def test_condition_moves_terms_from_prior_to_likelihood(key):
    given = {address: CHOICES[address] for address in ("b", "c", "flag")}
    rest = {address: CHOICES[address] for address in ("a", "d")}
    program = everything(Y).condition(given)
    assert {a: info.kind for a, info in program.sites.items()} == {
        "a": "latent", "b": "observed", "flag": "observed", "c": "observed", "d": "latent",
        "f": "factor", "g": "factor", "y": "observed", "out": "deterministic",
    }  # fmt: skip
    assert float(program.log_density(rest)) == pytest.approx(TOTAL, rel=1e-5)
    terms = program.terms(rest)
    likelihood = {a: float(jnp.sum(t)) for a, t in terms.likelihood.items()}
    assert likelihood == pytest.approx({a: PRIOR[a] for a in given} | {"y": LIKELIHOOD}, rel=1e-5)
    assert set(terms.prior) == {"a", "d"}
    trace = coherent(program, key)
    assert same_choices(trace, everything(Y).generate(key, given))
    once_more = program.condition({"a": CHOICES["a"]})
    assert float(once_more.log_density({"d": CHOICES["d"]})) == pytest.approx(TOTAL, rel=1e-5)


def test_substitute_keeps_the_term_in_the_prior():
    program = everything(Y).substitute({"a": CHOICES["a"]})
    rest = {address: value for address, value in CHOICES.items() if address != "a"}
    assert program.sites["a"].kind == "fixed"
    assert float(program.log_density(rest)) == pytest.approx(TOTAL, rel=1e-5)
    assert float(program.terms(rest).prior["a"]) == pytest.approx(PRIOR["a"], rel=1e-5)


def test_intervene_cuts_the_choice_out(key):
    program = everything(Y).intervene({"b": CHOICES["b"], "y": jnp.array([9.0, 9.0, 9.0])})
    rest = {address: value for address, value in CHOICES.items() if address != "b"}
    assert float(program.log_density(rest)) == pytest.approx(TOTAL - PRIOR["b"] - LIKELIHOOD, rel=1e-5)
    trace = coherent(program, key)
    np.testing.assert_array_equal(trace.deterministic["b"], CHOICES["b"])
    np.testing.assert_array_equal(trace.deterministic["y"], [9.0, 9.0, 9.0])
    free = everything(Y).simulate(key)
    for address in ("a", "flag", "c"):
        np.testing.assert_array_equal(trace.choices[address], free.choices[address])


def test_intervening_is_not_conditioning():
    """`do(x)` says nothing about the cause of x; observing x does. Exact, by enumeration."""

    @ppl.model
    def sprinkler():
        rain = ppl.sample("rain", dist.Bernoulli(0.2))
        ppl.sample("wet", dist.Bernoulli(jnp.where(rain == 1, 0.9, 0.3)))
        return rain

    def chance(program):
        return float(program.enumerate().normalize().expectation(lambda rain: rain))

    wet = {"wet": jnp.array(1)}
    assert chance(sprinkler().intervene(wet)) == pytest.approx(0.2, rel=1e-5)
    assert chance(sprinkler().condition(wet)) == pytest.approx(0.18 / (0.18 + 0.24), rel=1e-5)


def test_map_changes_the_value_alone(key):
    program = everything(Y).map(lambda v: {"half": 0.5 * v})
    assert program.sites == everything(Y).sites
    mapped, plain = program.simulate(key), everything(Y).simulate(key)
    assert same_choices(mapped, plain)
    np.testing.assert_array_equal(mapped.value["half"], 0.5 * plain.value)
    assert float(program.log_density(CHOICES)) == pytest.approx(TOTAL, rel=1e-5)


def test_nested_programs_have_addresses_under_their_own(key):
    @ppl.model
    def pair():
        left = ppl.sample("left", everything(Y))
        right = ppl.sample("deep/right", everything(Y), obs={"a": CHOICES["a"], "d": CHOICES["d"]})
        return left - right

    program = pair()
    assert list(program.sites) == [f"{p}/{a}" for p in ("left", "deep/right") for a in everything(Y).sites]
    trace = coherent(program, key)
    both = {f"left/{a}": v for a, v in CHOICES.items()}
    both |= {f"deep/right/{a}": CHOICES[a] for a in ("b", "flag", "c")}
    assert set(trace.choices) == set(both)
    assert float(program.log_density(both)) == pytest.approx(2 * TOTAL, rel=1e-5)
    assert float(program.replay(both).value) == pytest.approx(0.0, abs=1e-5)
    assert set(trace.observed) == {"left/y", "deep/right/a", "deep/right/d", "deep/right/y"}


def test_handlers_compose_under_jit_and_grad():
    @jax.jit
    def density(a, d, y):
        program = everything(y).condition({"d": d}).intervene({"flag": jnp.array(0)})
        return program.log_density({"a": a, "b": CHOICES["b"], "c": CHOICES["c"]})

    value, slope = jax.value_and_grad(density)(CHOICES["a"], CHOICES["d"], Y)
    assert float(value) == pytest.approx(TOTAL - PRIOR["flag"] - PRIOR["c"], rel=1e-5)
    assert float(slope) == pytest.approx(-(1.5 - 1.0) / 4.0 + (1.0 - 1.5) / 0.25, rel=1e-4)


def test_dicts_of_records_are_flat_in_the_trace(key):
    @ppl.model
    def records():
        x = ppl.sample("x", dist.Normal(0.0, 1.0))
        return ppl.deterministic("d", {"one": x, "two": (2 * x, 3 * x)})["one"]

    trace = records().simulate(key)
    assert {a: float(v / trace.value) for a, v in trace.deterministic.items()} == pytest.approx(
        {"d/one": 1.0, "d/two/0": 2.0, "d/two/1": 3.0}
    )
    assert set(trace.deterministic) == set(records().sites) - {"x"}


def test_traces_of_a_vmapped_run_are_whole(key):
    """`trace.program` gains the axis of the runs too, which once made its addresses unreadable."""
    keys = jax.random.split(key, 5)
    traces = jax.vmap(everything(Y).simulate)(keys)
    assert traces.choices["b"].shape == (5, 3)
    np.testing.assert_allclose(traces.log_density, jax.vmap(everything(Y).log_density)(traces.choices), rtol=1e-5)
    terms = jax.vmap(lambda trace: trace.terms.likelihood["y"].sum())(traces)
    np.testing.assert_allclose(terms[2], normal(Y, traces.choices["d"][2], 4.0), rtol=1e-5)


@pytest.mark.parametrize(
    "method", ["condition", "substitute", "intervene", "generate", "log_density", "replay", "terms"]
)
def test_no_method_ignores_an_unknown_address(method, key):
    choices = {**CHOICES, "aa": jnp.array(0.0)}
    arguments = (key, choices) if method == "generate" else (choices,)
    with pytest.raises(AddressError, match=r"'aa'[\s\S]*Did you mean 'a' \(test_handlers.py:\d+\)"):
        getattr(everything(Y), method)(*arguments)
