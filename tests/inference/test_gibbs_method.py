"""`ppl.Gibbs()`: which kernel draws which choice, and a run with draws that are independent and so tested exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ppl
import ppl.distributions as dist
from ppl.errors import MeasureError


@ppl.model
def everything(y):
    mu = ppl.sample("mu", dist.Normal(0.5, 2.0))
    spread = ppl.sample("spread", dist.LogNormal(0.0, 1.0))
    z = ppl.sample("z", dist.Bernoulli(0.25))
    count = ppl.sample("count", dist.Poisson(2.0))
    ppl.sample("y", dist.Normal(mu + z + count, spread), obs=y)
    switch = ppl.sample("switch", dist.Bernoulli(0.5))
    jax.lax.cond(switch == 1, lambda: ppl.sample("u", dist.Normal(0.25, 1.0)), lambda: jnp.zeros(()))


def test_the_plan_names_a_kernel_for_each_choice_and_why():
    plan = ppl.Gibbs().plan(everything(jnp.array(0.5)))
    assert {move.address: move.kernel for move in plan.moves} == {
        "mu": "conjugate",
        "spread": "slice_sampling",
        "z": "gibbs",
        "count": "trace_mh",
        "switch": "trace_mh, all",
        "u": "trace_mh, all",
    }
    assert "the prior is a LogNormal" in repr(plan)
    assert "it decides whether u are made" in repr(plan)
    assert hash(plan.maker) == hash(ppl.Gibbs().plan(everything(jnp.array(1.5))).maker)


@ppl.model
def mean(y):
    x = ppl.sample("x", dist.Normal(1.0, 2.0))
    ppl.sample("y", dist.Normal(x, 0.5), obs=y)


def test_independent_draws_have_the_exact_law(key):
    """Kolmogorov-Smirnov, false-alarm rate 1e-6; draws from the prior (a child forgotten) would die."""
    posterior = ppl.infer(mean(jnp.array(-1.5)), ppl.Gibbs(), key=key, chains=2, warmup=1, draws=500, progress=False)
    precision = 1 / 4 + 4
    law = stats.norm((1 / 4 - 1.5 * 4) / precision, precision**-0.5)
    draws = np.asarray(posterior.draws["x"]).reshape(-1)
    assert stats.kstest(draws, law.cdf).pvalue > 1e-6
    assert stats.kstest(draws, stats.norm(1.0, 2.0).cdf).pvalue < 1e-6
    assert posterior.method == "Gibbs"


def test_a_program_without_choices_is_refused():
    @ppl.model
    def nothing():
        ppl.factor("f", 1.0)

    with pytest.raises(MeasureError, match="no latent choice"):
        ppl.Gibbs().plan(nothing())
