"""`ppl.Importance`: unbiased evidence, conjugate posteriors, proposals. False alarms 1e-6 a statistical test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import betaln

import ppl
import ppl.distributions as dist
from ppl.distributions.scaled import Scaled
from ppl.errors import AddressError, DegenerateWeightsError
from ppl.inference.door import infer
from ppl.inference.importance import Importance
from ppl.inference.population import population

Z = 4.9  # two-sided false-alarm rate 1e-6
N = 20_000
DATA = jnp.array([1, 0, 1, 1, 1, 0, 1, 1, 1, 1])


@ppl.model
def coin(y):
    p = ppl.sample("p", dist.Beta(2.0, 3.0))
    ppl.sample("y", dist.Bernoulli(p), obs=y)
    return p


LOG_Z = betaln(10, 5) - betaln(2, 3)


def z_score(log_weights, log_z=LOG_Z):
    """Of the mean of weight / Z, which must be one."""
    ratios = np.exp(np.asarray(log_weights, np.float64).ravel() - log_z)
    return (ratios.mean() - 1) / (ratios.std() / len(ratios) ** 0.5)


def raw(posterior):
    return posterior.stats["log_weight"]


@ppl.model
def near(a, b):
    ppl.sample("p", dist.Beta(a, b))


@ppl.model
def mixture(weight):
    """A proposal with a choice that the target does not know."""
    c = ppl.sample("c", dist.Bernoulli(weight))
    ppl.sample("p", dist.Beta(jnp.where(c == 1, 8.0, 1.0), jnp.where(c == 1, 3.0, 1.0)))


@pytest.mark.parametrize("proposal", [None, near(8.0, 4.0), mixture(0.75)], ids=["prior", "near", "mixture"])
def test_the_evidence_is_unbiased_and_the_posterior_conjugate(key, proposal):
    posterior = infer(coin(DATA), Importance(N, proposal), key=key)
    assert abs(z_score(raw(posterior))) < Z
    estimate, error = posterior.log_evidence
    assert abs(estimate - LOG_Z) < Z * error + error**2
    ratios = np.exp(raw(posterior) - LOG_Z)
    assert error == pytest.approx(ratios.std() / ratios.mean() / N**0.5, rel=1e-3)
    weights = np.exp(posterior.log_weights[0] - np.logaddexp.reduce(posterior.log_weights[0]))
    p = np.asarray(posterior.draws["p"][0])
    mean = (weights * p).sum()
    assert abs(mean - 10 / 15) < Z * np.sqrt((weights**2 * (p - mean) ** 2).sum())
    assert posterior.diagnostics["pareto_k"] < 0.7
    assert 0 < posterior.diagnostics["ess"] <= N
    assert posterior.values.shape == (1, N)


def test_mutants_of_the_weights_die(key):
    """Counting the proposal's own choice in q; leaving the proposal's density out; inverting it."""
    proposed = population(mixture(0.75), key, N, scored=True)
    target = jax.vmap(lambda p: coin(DATA).log_density({"p": p}))(proposed.choices["p"])
    marginal = mixture(0.75).marginal(["p"])
    q = jax.vmap(lambda p: marginal.log_density({"p": p}))(proposed.choices["p"])
    assert abs(z_score(target - q)) < Z
    for mutant in (target - proposed.log_proposal, target, target + q):
        assert abs(z_score(mutant)) > Z


def test_choices_of_the_proposal_that_cannot_be_summed_out_are_refused(key):
    @ppl.model
    def hidden():
        c = ppl.sample("c", dist.Normal(0.0, 1.0))
        ppl.sample("p", dist.Beta(jnp.exp(c), 2.0))

    @ppl.model
    def weighed():
        c = ppl.sample("c", dist.Bernoulli(0.5))
        ppl.factor("f", 1.0 * c)
        ppl.sample("p", dist.Beta(1.0 + c, 2.0))

    @ppl.model
    def stranger():
        ppl.sample("q", dist.Beta(1.0, 2.0))

    with pytest.raises(AddressError, match=r"'c' \(test_importance.py:\d+\)(.|\n)*not finite(.|\n)*marginalise them"):
        infer(coin(DATA), Importance(10, hidden()), key=key)
    with pytest.raises(AddressError, match=r"\['f'\] weigh the proposal"):
        infer(coin(DATA), Importance(10, weighed()), key=key)
    with pytest.raises(AddressError, match="shares no latent address"):
        infer(coin(DATA), Importance(10, stranger()), key=key)


@ppl.model
def branching(prob, score):
    a = ppl.sample("a", dist.Bernoulli(prob))
    yes = lambda: ppl.sample("x", dist.Categorical(jnp.array([0.25, 0.5, 0.25])))
    no = lambda: ppl.sample("z", dist.Bernoulli(0.25)).astype(jnp.int32)
    value = jax.lax.cond(a == 1, yes, no)
    b = ppl.sample("b", dist.Bernoulli(0.5))
    ppl.factor("f", score * (value + a * b))
    return value


@ppl.model
def other_branch(prob):
    a = ppl.sample("a", dist.Bernoulli(prob))
    yes = lambda: ppl.sample("x", dist.Categorical(jnp.array([0.5, 0.25, 0.25])))
    jax.lax.cond(a == 1, yes, lambda: jnp.int32(0))


def test_branches_and_missing_addresses(key):
    """The proposal lacks b and z, and makes x where the program makes it."""
    target = branching(jnp.array(0.25), jnp.array(0.5))
    log_z = float(target.enumerate().log_mass)
    posterior = infer(target, Importance(N, other_branch(0.5)), key=key)
    assert abs(z_score(raw(posterior), log_z)) < Z
    assert (posterior.masks["x"] == (posterior.draws["a"] == 1)).all()
    a = float((np.exp(raw(posterior)) * np.asarray(posterior.draws["a"])).sum() / np.exp(raw(posterior)).sum())
    assert a == pytest.approx(float(target.enumerate().condition({"a": 1}).mass) / np.exp(log_z), abs=0.03)


def test_a_choice_made_where_the_program_does_not_make_it_is_refused(key):
    @ppl.model
    def always():
        ppl.sample("a", dist.Bernoulli(0.5))
        ppl.sample("x", dist.Categorical(jnp.array([0.5, 0.25, 0.25])))

    with pytest.raises(AddressError, match=r"makes the choices \['x'\] in runs where"):
        infer(branching(jnp.array(0.25), jnp.array(0.5)), Importance(100, always()), key=key)


def test_laws_of_draws_that_are_not_the_density(key):
    """A scaled, a masked and an unnormalised latent choice: the weight makes up for what the draws do not follow."""

    @ppl.model
    def program():
        ppl.sample("s", Scaled(dist.Bernoulli(0.25), 2.0))
        ppl.sample("m", dist.Bernoulli(0.25).mask(jnp.array(False)))
        ppl.sample("u", ppl.FiniteMeasure(jnp.log(jnp.array([0.5, 2.5])), jnp.array([3, 5])))

    log_z = float(program().enumerate().log_mass)
    assert log_z == pytest.approx(np.log((0.0625 + 0.5625) * 2 * 3), abs=1e-5)
    posterior = infer(program(), Importance(N), key=key)
    assert abs(z_score(raw(posterior), log_z)) < Z


def test_lanes_inside_are_independent_of_each_other(key):
    @ppl.model
    def program(y):
        def lane(value):
            x = ppl.sample("x", dist.Normal(0.0, 1.0))
            ppl.sample("y", dist.Normal(x, 1.0), obs=value)

        ppl.vmap(lane)(y)

    posterior = infer(program(jnp.array([0.5, 0.5, -1.0])), Importance(500), key=key)
    x = np.asarray(posterior.draws["x"][0])
    assert x.shape == (500, 3)
    assert len(np.unique(x)) == x.size


def test_batches_and_unsmoothed_weights(key):
    posterior = infer(coin(DATA), Importance(N, smooth=False, batch_size=7000), key=key)
    assert abs(z_score(posterior.log_weights)) < Z
    assert len(np.unique(posterior.draws["p"])) > 0.99 * N
    assert (posterior.log_weights == raw(posterior)).all()


def test_new_data_do_not_compile_again(key):
    infer(coin(DATA), Importance(64), key=key)
    before = population._cache_size()
    infer(coin(1 - DATA), Importance(64), key=jax.random.fold_in(key, 1))
    assert population._cache_size() == before


def test_no_weight_at_all_is_an_error_with_the_sites(key):
    @ppl.model
    def impossible(bound):
        x = ppl.sample("x", dist.Uniform(0.0, 1.0))
        ppl.factor("never", jnp.where(x < bound, 0.0, -jnp.inf))

    with pytest.raises(DegenerateWeightsError, match=r"None of 50 draws(.|\n)*never +factor +-inf +<- test_imp"):
        infer(impossible(jnp.array(-1.0)), Importance(50), key=key)


def test_nan_weights_are_said_aloud(key):
    @ppl.model
    def undefined(bound):
        x = ppl.sample("x", dist.Uniform(0.0, 1.0))
        ppl.factor("f", jnp.where(x < bound, jnp.nan, 0.0))

    posterior = infer(undefined(jnp.array(0.25)), Importance(400), key=key)
    assert posterior.diagnostics["nan_weights"] == np.isnan(posterior.log_weights).sum() > 0
    assert "NaN: counted as zero weight" in repr(posterior)
