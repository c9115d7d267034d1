"""`ppl.MH` from end to end. Its exact laws are in tests/laws/test_mh.py.

The statistical tests use many chains and the last draw of each, so that the draws are independent; false alarms 1e-6
each.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import ConvergenceError, DegenerateWeightsError, UnboundedError
from ppl.inference.door import infer
from ppl.inference.kernels import initial_states
from ppl.inference.trace_mh import MH

Z = 4.9  # two-sided false-alarm rate 1e-6


@ppl.model
def normal(y):
    mu = ppl.sample("mu", dist.Normal(1.0, 2.0))
    ppl.deterministic("twice", 2 * mu)
    ppl.sample("y", dist.Normal(mu, 1.0), obs=y)
    return mu + 1


@ppl.model
def indicator(score):
    a = ppl.sample("a", dist.Bernoulli(0.5))

    def yes():
        ppl.factor("yes", score)
        return 0.0

    def no():
        return ppl.sample("b", dist.Normal(0.0, 1.0))

    return jax.lax.cond(a == 1, yes, no)


def test_a_conjugate_posterior(key):
    y = jnp.array([2.0, 3.5, 1.0])
    posterior = infer(normal(y), MH(), key=key, chains=2000, warmup=60, draws=1, layout="vmap")
    mu = np.asarray(posterior.draws["mu"][:, 0])
    precision = 1 / 4 + 3
    mean, sd = (1 / 4 + y.sum()) / precision, precision**-0.5
    assert abs(mu.mean() - mean) < Z * sd / 2000**0.5
    assert abs(mu.var() / sd**2 - 1) < Z * (2 / 2000) ** 0.5


def test_the_branch_indicator(key):
    """Published as .503 by an implementation whose move between branches scored only one of them."""
    posterior = infer(indicator(jnp.array(3.0)), MH(), key=key, chains=4000, warmup=60, draws=1, layout="vmap")
    share, exact = float(posterior.draws["a"].mean()), 1 / (1 + np.exp(-3.0))
    assert abs(share - exact) < Z * (exact * (1 - exact) / 4000) ** 0.5
    assert abs(share - 0.503) > 0.4
    assert (posterior.masks["b"] == (posterior.draws["a"] == 0)).all()


def test_what_comes_back(key):
    posterior = infer(normal(jnp.array([2.0, 3.5, 1.0])), MH(thin=3), key=key, chains=3, warmup=20, draws=50)
    assert posterior.shape == (3, 50)
    assert posterior.log_weights is None
    assert posterior.log_evidence is None
    assert jnp.allclose(posterior.deterministic["twice"], 2 * posterior.draws["mu"])
    assert jnp.allclose(posterior.values, posterior.draws["mu"] + 1)
    program = normal(jnp.array([2.0, 3.5, 1.0]))
    scores = jax.vmap(jax.vmap(lambda mu: program.log_density({"mu": mu})))(posterior.draws["mu"])
    assert jnp.allclose(posterior.stats["log_density"], scores, atol=1e-4)
    assert 0.2 < posterior.diagnostics["acceptance"] < 1
    again = infer(normal(jnp.array([2.0, 3.5, 1.0])), MH(thin=3), key=key, chains=3, warmup=20, draws=50)
    assert jnp.array_equal(posterior.draws["mu"], again.draws["mu"])
    assert len(np.unique(posterior.draws["mu"][:, -1])) == 3


def test_a_chain_that_cannot_move_is_an_error(key):
    @ppl.model
    def twins():
        a = ppl.sample("a", dist.Bernoulli(0.25))
        b = ppl.sample("b", dist.Bernoulli(0.5))
        ppl.factor("equal", jnp.where(a == b, 0.0, -jnp.inf))

    with pytest.raises(ConvergenceError, match="ever left its start(.|\n)*irreducible"):
        infer(twins(), MH(), key=key, draws=50, warmup=0)


def test_starts_have_positive_density(key):
    @ppl.model
    def rare(bound):
        x = ppl.sample("x", dist.Uniform(0.0, 1.0))
        ppl.factor("small", jnp.where(x < bound, 0.0, -jnp.inf))

    starts = initial_states(rare(jnp.array(0.25)), key, 50)
    assert (starts.choices["x"] < 0.25).all()
    assert len(np.unique(starts.choices["x"])) == 50
    with pytest.raises(DegenerateWeightsError, match=r"100 prior draws(.|\n)*small +factor +-inf +<- test_mh.py"):
        infer(rare(jnp.array(-1.0)), MH(), key=key)


def test_unbounded_programs_and_senseless_settings_are_refused(key):
    @ppl.model
    def endless():
        body = lambda state: state + ppl.sample("x", dist.Exponential(1.0))
        jax.lax.while_loop(lambda state: state < 3.0, body, 0.0)

    with pytest.raises(UnboundedError, match="'x'"):
        infer(endless(), MH(), key=key)
    with pytest.raises(ValueError, match="chains is 0"):
        infer(normal(jnp.ones(3)), MH(), key=key, chains=0)
    with pytest.raises(ValueError, match="thin is 0"):
        MH(thin=0)
