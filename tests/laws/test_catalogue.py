"""Universal laws over `tests/catalogue.py`, and the check that nothing public is missing from it."""

import inspect
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import pytest
from hypothesis import given, settings

import ppl
import ppl.distributions as dist
from ppl.distributions.finite import Finite, outcomes
from ppl.numerics import resampling
from ppl.semantics import blocks, suspension
from tests.catalogue import DISTRIBUTIONS, RESAMPLERS, TRANSFORMERS
from tests.laws import mutants
from tests.laws.exact import ATOL, DEAD, double, gap, oracle, ours, same  # noqa: F401
from tests.oracle.ast import SPARSE, WEIGHT, ZERO, map_tables
from tests.oracle.generate import SKELETONS, fillings
from tests.oracle.render import to_program


def particles(representation):
    """The number of particles of a population, also of one that waits."""
    return getattr(getattr(representation, "layer", representation), "n", None)


# --- transformers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(TRANSFORMERS))
def test_a_transformer_preserves_the_measure(name):
    """Against the Fraction oracle, zero weights and dead populations included; and it gives what it says."""
    entry = TRANSFORMERS[name]

    @settings(max_examples=6)
    @given(fillings(SKELETONS["zero_weight"]))
    def check(drawn):
        before = entry.source(to_program(drawn))
        after = entry.make()(before)
        assert isinstance(before, entry.takes)
        assert isinstance(after, entry.gives)
        assert particles(after) == entry.size
        same(after, oracle(drawn))

    check()


@pytest.mark.parametrize("name", list(TRANSFORMERS))
def test_18_a_dead_program_stays_dead(name):
    """All weights zero: mass 0 and no NaN in any outcome, for every block."""
    dead = map_tables(SKELETONS["zero_weight"], _dead)
    entry = TRANSFORMERS[name]
    measure = ppl.meaning(entry.make()(entry.source(to_program(dead))))
    assert not np.isnan(np.asarray(measure.log_weights)).any()
    assert float(measure.mass) == 0.0


def _dead(table):
    return replace(table, values=_constant(table.shape, 0.0 if _scores(table) else 0.5))


def _scores(table):
    return table.kind in (WEIGHT, SPARSE, ZERO)


def _constant(shape, value):
    return tuple(_constant(shape[1:], value) for _ in range(shape[0])) if shape else value


SLOW_STRUCTURES = ("branch_shared", "loop_observed")


@pytest.mark.slow
@pytest.mark.parametrize("structure", SLOW_STRUCTURES)
@pytest.mark.parametrize("name", list(TRANSFORMERS))
def test_a_transformer_preserves_the_measure_of_longer_programs(name, structure):
    entry = TRANSFORMERS[name]
    same(entry.make()(entry.source(ours(structure))), ours(structure))


@pytest.mark.parametrize("mutant", [mutants.self_normalise, mutants.resample_to_one("systematic")], ids=["self", "one"])
def test_mutants_die(mutant):
    program = ours("zero_weight")
    assert gap(mutant(ppl.population(program, 2)), program) > DEAD


def test_every_transformer_is_listed():
    made = {
        name
        for module in (blocks, suspension)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if inspect.signature(function).return_annotation is blocks.Transformer
    }
    assert {"spawn", "resample", "advance", "smc"} <= made
    missing = {name for name in made if not any(entry.split()[0] == name for entry in TRANSFORMERS)}
    assert not missing, f"add a line to tests/catalogue.py for: {missing}"


def test_every_resampler_is_listed():
    assert set(RESAMPLERS) == set(resampling.RESAMPLERS)


# --- distributions ----------------------------------------------------------------------------------------------------

FINITE = [name for name, entry in DISTRIBUTIONS.items() if entry.finite]


@pytest.fixture
def ranks():
    """NumPyro's own code promotes ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


@ppl.model
def drawn_from(measure):
    return ppl.sample("x", measure)


@pytest.mark.usefixtures("ranks")
@pytest.mark.parametrize("name", FINITE)
def test_outcomes_have_the_mass_and_the_density_of_the_distribution(name):
    """The enumerated measure, its mass, and `log_prob` at every outcome."""
    entry = DISTRIBUTIONS[name]
    measure = entry.make()
    program = drawn_from(measure)
    enumerated = program.enumerate()
    assert abs(float(enumerated.mass) - entry.mass ** _batch(measure)) < 1e-6
    for index in range(len(enumerated.log_weights)):
        choices = {address: values[index] for address, values in enumerated.choices.items()}
        mass = float(enumerated.condition(choices).mass)
        assert float(jnp.exp(program.log_density(choices))) == pytest.approx(mass, abs=1e-6)


def _batch(measure):
    return int(np.prod(getattr(measure, "batch_shape", ())))


@pytest.mark.usefixtures("ranks")
@pytest.mark.parametrize("name", FINITE)
def test_9_a_latent_of_any_mass_means_the_same_when_it_is_drawn(name):
    """Draws are normalised; the weighted sampler must make up for a density that is not."""
    program = drawn_from(DISTRIBUTIONS[name].make())
    sampler = ppl.weighted(program)
    assert gap(sampler, program) < 1e-6
    assert float(sampler.program.enumerate().mass) == pytest.approx(1.0, abs=1e-6)


def largest_deviation(key, measure, claimed, draws=4_000):
    """Frequencies of draws against the claimed law, the worst outcome, in standard errors; infinite outside the law."""
    law = ppl.FiniteMeasure(*_points(claimed)).normalize().merged()
    values = jax.vmap(measure.sample)(jax.random.split(key, draws))
    found = ppl.FiniteMeasure(jnp.full(draws, -jnp.log(draws)), values)
    shares = np.array(
        [float(found.condition(partial(_equal, law.values, i)).mass) for i in range(len(law.log_weights))]
    )
    if shares.sum() < 1 - 1e-6:
        return np.inf
    p = np.exp(law.log_weights)
    return float(np.max(np.abs(shares - p) / np.sqrt(np.maximum(p * (1 - p), 1e-12) / draws)))


def _points(measure):
    found = drawn_from(measure).enumerate()
    return found.log_weights, found.values


def _equal(values, index, value):
    pairs = zip(jax.tree.leaves(value), jax.tree.leaves(values), strict=True)
    return jnp.all(jnp.stack([jnp.all(jnp.abs(a - b[index]) < 1e-6) for a, b in pairs]))


SAMPLED = [name for name in FINITE if name != "Scaled"]


@pytest.mark.usefixtures("ranks")
@pytest.mark.parametrize("name", SAMPLED)
def test_draws_have_the_law_of_the_outcomes(name, key):
    """False alarm rate 1e-6: at most 64 outcomes, each a z-test at 1e-6 / 64 (5.7 standard errors)."""
    measure = DISTRIBUTIONS[name].make()
    assert largest_deviation(key, measure, measure) < 5.7


def test_draws_of_another_law_are_noticed(key):
    measure, other = DISTRIBUTIONS["Categorical"].make(), dist.Categorical(probs=jnp.array([0.375, 0.25, 0.375]))
    assert largest_deviation(key, measure, other) > 5.7
    assert largest_deviation(key, measure, dist.Bernoulli(0.5)) > 5.7


@pytest.mark.usefixtures("ranks")
@pytest.mark.parametrize("name", list(DISTRIBUTIONS))
def test_a_distribution_is_a_pytree_of_draws_with_positive_density(name, key):
    """Leaves and treedef make the same distribution again; draws are possible; one key serves a batch of draws."""
    measure = DISTRIBUTIONS[name].make()
    leaves, tree = jax.tree.flatten(measure)
    again = jax.tree.unflatten(tree, leaves)
    draw, same_draw = measure.sample(key), again.sample(key)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), draw, same_draw))
    assert bool(jnp.all(measure.log_prob(draw) > -jnp.inf))
    batch = measure.sample(key, (3,))
    assert jax.tree.map(lambda x: x.shape, batch) == jax.tree.map(lambda x: (3, *x.shape), draw)
    support = getattr(measure, "support", None)
    assert support is None or bool(jnp.all(support(batch)))


def test_every_finite_distribution_is_listed():
    listed = {entry.covers for entry in DISTRIBUTIONS.values()}
    of_numpyro = {
        name
        for name, kind in inspect.getmembers(numpyro.distributions, inspect.isclass)
        if issubclass(kind, numpyro.distributions.Distribution) and kind.has_enumerate_support is True
    }
    of_ours = {name for name in ppl.distributions.__all__ if inspect.isclass(getattr(ppl.distributions, name))}
    assert {"BernoulliProbs", "DiscreteUniform"} <= of_numpyro
    assert of_numpyro | of_ours <= listed
    assert all(isinstance(DISTRIBUTIONS[n].make(), Finite) for n in ("FiniteMeasure", "Ancestors systematic"))
    assert outcomes(numpyro.distributions.Normal(0.0, 1.0)) is None
