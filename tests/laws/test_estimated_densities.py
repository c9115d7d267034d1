"""Law 41: the two contracts of measures whose densities are estimated, exactly, by enumeration of all their choices.

E[estimate] = p(x), and draws x ~ p with E[1 / w | x] = 1 / p(x); the explicit program has marginal p(x). Auxiliary
choices are not uniform, proposals are not the posterior, and measures are nested in each other's proposals and targets.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.inference import transitions
from ppl.inference.sir_measures import _from_program, _given
from ppl.inference.sir_particles import others
from ppl.numerics.weights import log_mean_exp
from tests.laws.exact import ATOL, DEAD, double  # noqa: F401

HEADS = np.array([0.15, 0.6, 0.85])


@ppl.model
def pair():
    """Auxiliaries u, v with laws of their own; x depends on both."""
    u = ppl.sample("u", dist.Categorical(jnp.array([0.2, 0.5, 0.3])))
    v = ppl.sample("v", dist.Bernoulli(0.3 + 0.1 * u))
    ppl.sample("x", dist.Bernoulli(jnp.asarray(HEADS)[u] * (1.0 - 0.2 * v)))


@ppl.model
def reverse(x):
    """u given x; v is left to the program."""
    ppl.sample("u", dist.Categorical(jnp.array([0.5, 0.3, 0.2]) * (1 - x) + jnp.array([0.1, 0.3, 0.6]) * x))


@ppl.model
def deeper(x):
    """u given x, by way of a choice w of its own."""
    w = ppl.sample("w", dist.Bernoulli(0.4 + 0.3 * x))
    ppl.sample("u", dist.Categorical(jnp.array([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]])[w]))


@ppl.model
def outer(n):
    """y depends on the choice of an estimated measure, and on an auxiliary of its own."""
    x = ppl.sample("in", pair().marginal("x", ppl.SIR(n, lambda kept: reverse(kept["x"]))))
    u = ppl.sample("u", dist.Bernoulli(0.35))
    ppl.sample("y", dist.Bernoulli(jnp.array([[0.2, 0.5], [0.7, 0.9]])[x, u]))


@ppl.model
def observed():
    """Two choices with an observation and a factor."""
    u = ppl.sample("u", dist.Categorical(jnp.array([0.2, 0.5, 0.3])))
    v = ppl.sample("v", dist.Bernoulli(0.3 + 0.1 * u))
    ppl.sample("y", dist.Bernoulli(jnp.asarray(HEADS)[u] * (1.0 - 0.2 * v)), obs=1)
    ppl.factor("tilt", 0.4 * v)
    return u + 2 * v


@ppl.model
def far():
    """A proposal for both choices of `observed`."""
    u = ppl.sample("u", dist.Categorical(jnp.array([0.4, 0.2, 0.4])))
    ppl.sample("v", dist.Bernoulli(0.7 - 0.2 * u))


@ppl.model
def far_by_way():
    """A proposal for u alone, with a choice of its own."""
    w = ppl.sample("w", dist.Bernoulli(0.4))
    ppl.sample("u", dist.Categorical(jnp.array([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]])[w]))


def marginal(program, kept, method):
    return method.marginalize(program, (kept,))


MARGINALS = {
    "prior": lambda n: (marginal(pair(), "x", ppl.SIR(n)), pair()),
    "reverse": lambda n: (marginal(pair(), "x", ppl.SIR(n, lambda kept: reverse(kept["x"]))), pair()),
    "nested proposal": lambda n: (marginal(pair(), "x", ppl.SIR(n, by_way)), pair()),
    "nested target": lambda n: (marginal(outer(2), "y", ppl.SIR(n)), exact_outer()),
    "proposed nested": lambda n: (marginal(outer(2), "y", ppl.SIR(n, into)), exact_outer()),
}


def by_way(kept):
    return deeper(kept["x"]).marginal("u", ppl.SIR(2, hidden()))


@ppl.model
def hidden():
    ppl.sample("w", dist.Bernoulli(0.55))


@ppl.model
def into(kept):
    """Proposes the choice of the estimated measure inside `outer`."""
    ppl.sample("in/x", dist.Bernoulli(0.3 + 0.4 * kept["y"]))


@ppl.model
def exact_outer():
    x = ppl.sample("in", pair().marginal("x"))
    u = ppl.sample("u", dist.Bernoulli(0.35))
    ppl.sample("y", dist.Bernoulli(jnp.array([[0.2, 0.5], [0.7, 0.9]])[x, u]))


def masses(program, addresses):
    """The mass of every value of some choices."""
    found = program.enumerate()
    table = {}
    for row, weight in enumerate(np.exp(np.asarray(found.log_weights))):
        value = tuple(int(found.choices[a][row]) for a in addresses)
        table[value] = table.get(value, 0.0) + float(weight)
    return table


def gaps(weighted, estimates, law):
    """How far a weighted program and estimates (by value) are from the two contracts for a law (a dict by value)."""
    found = weighted.enumerate()
    choices, log_weight = found.values
    names = sorted(choices)
    mass, inverse = dict.fromkeys(law, 0.0), dict.fromkeys(law, 0.0)
    rows = zip(np.exp(found.log_weights), *(np.asarray(choices[a]) for a in names), np.exp(-log_weight), strict=True)
    for weight, *value, reciprocal in (row for row in rows if row[0] > 0):
        mass[tuple(value)] += weight
        inverse[tuple(value)] += weight * reciprocal
    drawn = max(abs(mass[x] - law[x]) for x in law)
    # E[1 / w | x] p(x) = 1
    unbiased = max(abs(inverse[x] - 1.0) for x in law)
    return drawn, unbiased, max(abs(mean(estimates(x)) - law[x]) for x in law)


def mean(estimate):
    found = estimate.enumerate()
    return float(jnp.sum(jnp.exp(found.log_weights + found.values)))


def at(measure, names):
    return lambda value: measure.estimate({a: jnp.array(x) for a, x in zip(names, value, strict=True)})


CASES = [
    ("reverse", 3),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in itertools.product(("prior", "reverse"), (1, 2))),
    *(pytest.param(name, 2, marks=pytest.mark.slow) for name in MARGINALS if "nested" in name),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (("prior", 3), ("nested target", 1))),
]


@pytest.mark.parametrize(("name", "n"), CASES)
def test_41_marginals_keep_both_contracts(name, n):
    measure, program = MARGINALS[name](n)
    law = masses(program, measure.kept)
    assert max(gaps(measure.weighted(), at(measure, measure.kept), law)) < ATOL
    explicit = masses(measure.explicit(), measure.kept)
    assert max(abs(explicit[x] - law[x]) for x in law) < ATOL


# --- normalised programs: the law of SIR draws -----------------------------------------------------------------------


def law_of_draws(target, proposal, n):
    """What one of n proposals is, picked in proportion to target over proposal: by looking at all n-tuples."""
    law = dict.fromkeys(target, 0.0)
    for draws in itertools.product(proposal, repeat=n):
        weights = np.array([target[x] / proposal[x] for x in draws])
        chance = np.prod([proposal[x] for x in draws])
        for x, weight in zip(draws, weights, strict=True):
            law[x] += chance * weight / weights.sum()
    return law


@ppl.model
def prior():
    """The proposal that `observed` is without one: its own choices."""
    u = ppl.sample("u", dist.Categorical(jnp.array([0.2, 0.5, 0.3])))
    ppl.sample("v", dist.Bernoulli(0.3 + 0.1 * u))


@ppl.model
def far_u():
    """What `far_by_way` makes of u, and the program's own v."""
    u = ppl.sample("u", dist.Categorical(0.6 * jnp.array([0.5, 0.2, 0.3]) + 0.4 * jnp.array([0.1, 0.6, 0.3])))
    ppl.sample("v", dist.Bernoulli(0.3 + 0.1 * u))


NORMALIZED = {
    "prior": (None, prior),
    "proposal": (far, far),
    "nested proposal": (lambda: far_by_way().marginal(["u"], ppl.SIR(2, hidden())), far_u),
}
SOME = [
    ("proposal", 2),
    *(pytest.param("prior", n, marks=pytest.mark.slow) for n in (1, 2, 3)),
    *(pytest.param("proposal", n, marks=pytest.mark.slow) for n in (1, 3)),
    *(pytest.param("nested proposal", n, marks=pytest.mark.slow) for n in (1, 2)),
]


@pytest.mark.parametrize(("name", "n"), SOME)
def test_41_normalised_programs_keep_both_contracts(name, n):
    """With a proposal whose density is estimated the law is another one, so that its three sides are compared."""
    made, simple = NORMALIZED[name]
    measure = ppl.SIR(n, None if made is None else made()).normalized(observed())
    target, names = masses(observed(), ("u", "v")), ("u", "v")
    law = law_of_draws(target, masses(simple(), names), n)
    if name == "nested proposal" and n > 1:
        law = masses(measure.explicit(), names)
    assert max(gaps(measure.weighted(), at(measure, names), law)) < ATOL
    explicit = masses(measure.explicit(), names)
    assert max(abs(explicit[x] - law[x]) for x in law) < ATOL


# --- mutants ----------------------------------------------------------------------------------------------------------


def wrong_draw(measure, mistake):
    """`weighted` of a marginal with one mistake."""
    kept, first, particles = _from_program(measure)
    log_weights = particles.log_weight
    if mistake == "importance weights taken as joint scores":
        log_weights = log_weights + particles.log_proposal
    if mistake == "the retained particle has log weight zero":
        log_weights = log_weights.at[0].set(0.0)
    if mistake == "one key for all other particles":
        log_weights = jnp.array([log_weights[0], *[log_weights[1]] * (measure.n - 1)])
    if mistake == "the retained particle is drawn again":
        log_weights = others(measure.program, measure.proposal, kept, measure.n, "fresh").log_weight
    return kept, log_mean_exp(log_weights)


def wrong_estimate(measure, value):
    """`estimate` of a marginal whose weights are joint scores."""
    particles = others(measure.program, measure.proposal, value, measure.n, "particles")
    return log_mean_exp(particles.log_weight + particles.log_proposal)


MISTAKES = (
    "importance weights taken as joint scores",
    "the retained particle has log weight zero",
    "one key for all other particles",
    "the retained particle is drawn again",
)


def test_41_mutants_of_the_marginal_die():
    measure, program = MARGINALS["reverse"](3)
    law = masses(program, ("x",))
    deaths = {}
    for mistake in MISTAKES:
        mutant = ppl.Program.of(wrong_draw, (measure, mistake))
        deaths[mistake] = gaps(mutant, at(measure, ("x",)), law)[1]
    assert all(gap > DEAD for gap in deaths.values()), deaths
    wrong = [mean(ppl.Program.of(wrong_estimate, (measure, {"x": jnp.array(x)}))) - mass for (x,), mass in law.items()]
    assert max(map(abs, wrong)) > DEAD


def wrong_pick(measure, mistake):
    """`weighted` of a normalised program with one mistake."""
    particles = others(measure.program, measure.proposal, {}, measure.n, "particles")
    logits = particles.log_weight
    if mistake == "importance weights taken as joint scores":
        logits = logits + particles.log_proposal
    if mistake == "picked uniformly":
        logits = 0 * logits
    index = ppl.sample("index", dist.Categorical(logits=logits))
    log_density = particles.log_proposal[index] + particles.log_weight[index] - log_mean_exp(particles.log_weight)
    return {a: x[index] for a, x in particles.choices.items()}, log_density


def lonely(measure, value):
    """An estimate in which the value at hand is not among the particles."""
    first = _given(measure, value)
    fresh = others(measure.program, measure.proposal, {}, measure.n, "fresh")
    return first.log_proposal + first.log_weight - log_mean_exp(fresh.log_weight)


def test_41_mutants_of_the_normalised_program_die():
    names = ("u", "v")
    measure = ppl.SIR(2, far()).normalized(observed())
    law = law_of_draws(masses(observed(), names), masses(far(), names), 2)
    for mistake in ("importance weights taken as joint scores", "picked uniformly"):
        assert max(gaps(ppl.Program.of(wrong_pick, (measure, mistake)), at(measure, names), law)) > DEAD, mistake
    value = {a: jnp.array(1) for a in names}
    assert abs(mean(ppl.Program.of(lonely, (measure, value))) - law[1, 1]) > DEAD


# --- what the contracts are for --------------------------------------------------------------------------------------


def test_41_a_proposal_of_impossible_choices_breaks_one_contract_alone():
    """The condition on proposals: mass where the program has none lowers E[1 / w | x], and leaves E[w] as it is."""
    measure = marginal(sure(), "x", ppl.SIR(1, tossed()))
    law = masses(sure(), ("x",))
    two = marginal(sure(), "x", ppl.SIR(2, tossed()))
    drawn, unbiased, estimated = gaps(two.weighted(), at(two, ("x",)), law)
    assert max(drawn, estimated) < ATOL
    assert unbiased == pytest.approx(0.25)  # both proposals are impossible
    assert measure.n == 1


@ppl.model
def sure():
    u = ppl.sample("u", dist.Bernoulli(1.0))
    ppl.sample("x", dist.Bernoulli(0.3 + 0.4 * u))


@ppl.model
def tossed():
    ppl.sample("u", dist.Bernoulli(0.5))


@ppl.model
def hidden_coin():
    u = ppl.sample("u", dist.Bernoulli(0.35))
    ppl.sample("x", dist.Bernoulli(0.2 + 0.5 * u))


@ppl.model
def pseudo(n):
    """A latent choice and an observation whose densities are estimated."""
    x = ppl.sample("m", hidden_coin().marginal("x", ppl.SIR(n, coin())))
    ppl.sample("see", seen(x).marginal(["y"], ppl.SIR(1)), obs={"y": 1})


@ppl.model
def coin():
    ppl.sample("u", dist.Bernoulli(0.6))


@ppl.model
def seen(x):
    a = ppl.sample("a", dist.Bernoulli(0.3 + 0.2 * x))
    ppl.sample("y", dist.Bernoulli(0.2 + 0.3 * x + 0.4 * a))


def test_41_pseudo_marginal_chains_keep_the_posterior():
    """MCMC on the explicit program: stochastic, invariant, and its marginal is the exact posterior."""
    chain = transitions(ppl.explicit(pseudo(2)))
    np.testing.assert_allclose(chain.matrix.sum(axis=1), 1.0, atol=ATOL)
    np.testing.assert_allclose(chain.posterior @ chain.matrix, chain.posterior, atol=ATOL)
    x = np.asarray(chain.states.choices["m/x"])
    likelihood = np.array([0.7 * 0.2 + 0.3 * 0.6, 0.5 * 0.5 + 0.5 * 0.9])
    joint = np.array([0.65 * 0.8 + 0.35 * 0.3, 0.65 * 0.2 + 0.35 * 0.7]) * likelihood
    np.testing.assert_allclose([chain.posterior[x == v].sum() for v in (0, 1)], joint / joint.sum(), atol=ATOL)
