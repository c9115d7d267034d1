"""`ppl.Exact` against closed forms and against the Fraction oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import DegenerateWeightsError, EnumerationSizeError, NotFiniteError
from ppl.inference.door import infer
from ppl.inference.exact import Exact
from tests.oracle.fractions_enumerator import paths
from tests.oracle.generate import SKELETONS, generic
from tests.oracle.render import path_of, to_program


@ppl.model
def disease(test):
    ill = ppl.sample("ill", dist.Bernoulli(0.125))
    ppl.deterministic("well", 1 - ill)
    ppl.sample("test", dist.Bernoulli(jnp.where(ill == 1, 0.75, 0.25)), obs=test)
    return 10 * ill


def test_bayes_rule():
    posterior = infer(disease(jnp.array(1)), Exact(), key=0)
    weights = np.exp(posterior.log_weights[0])
    assert posterior.draws["ill"].tolist() == [[0, 1]]
    assert weights == pytest.approx([0.875 * 0.25, 0.125 * 0.75], rel=1e-6)
    assert posterior.log_evidence == pytest.approx((np.log(0.3125), 0.0), abs=1e-6)
    assert posterior.values.tolist() == [[0, 10]]
    assert posterior.deterministic["well"].tolist() == [[1, 0]]
    assert posterior.method == "Exact"


@pytest.mark.parametrize("name", ["branch", "zero_weight", "branch_in_loop"])
def test_every_path_with_its_mass(name):
    program = generic(SKELETONS[name])
    exact = {path.choices: float(path.mass) for path in paths(program) if path.mass > 0}
    posterior = infer(to_program(program), Exact(), key=0)
    found = {}
    for i in range(posterior.shape[1]):
        choices = {a: x[0, i] for a, x in posterior.draws.items()}
        masks = {a: x[0, i] for a, x in posterior.masks.items()}
        found[path_of(choices, masks, 0)[0]] = float(np.exp(posterior.log_weights[0, i]))
    assert found == pytest.approx(exact, rel=1e-5)


def test_impossible_points_are_dropped_and_equal_ones_merged():
    @ppl.model
    def program():
        die = ppl.sample("die", dist.Categorical(jnp.array([0.25, 0.0, 0.75])))
        twice = ppl.sample("twice", ppl.FiniteMeasure(jnp.log(jnp.array([0.5, 0.25, 0.25])), jnp.array([7, 7, 9])))
        ppl.factor("odd", jnp.where((die == 2) & (twice == 9), -jnp.inf, 0.0))

    posterior = infer(program(), Exact(), key=0)
    points = dict(
        zip(
            zip(*(posterior.draws[a][0].tolist() for a in ("die", "twice")), strict=True),
            np.exp(posterior.log_weights[0]).tolist(),
            strict=True,
        )
    )
    assert points == pytest.approx({(0, 7): 0.1875, (0, 9): 0.0625, (2, 7): 0.5625}, rel=1e-5)


def test_errors_name_the_cause():
    @ppl.model
    def impossible(y):
        x = ppl.sample("x", dist.Bernoulli(0.5))
        ppl.factor("never", jnp.where(x == x, -jnp.inf, y))

    @ppl.model
    def endless():
        ppl.sample("count", dist.Poisson(2.0))

    with pytest.raises(DegenerateWeightsError, match="never.*-inf.*test_exact.py"):
        infer(impossible(jnp.array(0.0)), Exact(), key=0)
    with pytest.raises(NotFiniteError, match="count"):
        infer(endless(), Exact(), key=0)
    with pytest.raises(EnumerationSizeError, match="limit is 1"):
        infer(disease(jnp.array(1)), Exact(limit=1), key=0)
    with pytest.raises(ValueError, match="draws=5"):
        infer(disease(jnp.array(1)), Exact(), key=0, draws=5)


def test_it_is_the_method_of_marginals():
    marginal = disease(jnp.array(1)).condition({}).marginal("ill", method=Exact())
    assert float(marginal.log_density({"ill": jnp.array(1)})) == pytest.approx(np.log(0.125 * 0.75), abs=1e-6)


def test_exact_moments_in_the_summary():
    summary = infer(disease(jnp.array(1)), Exact(), key=jax.random.key(3)).summary()
    assert "0.3" in repr(summary)
