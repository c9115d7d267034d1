"""Leave-one-out cross-validation against the exact answer of a conjugate model."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import AddressError, ConvergenceWarning
from ppl.inference.model_criticism import loo

Y = np.array([0.3, -1.2, 2.0, 0.7, 1.1, -0.4], np.float32)


@ppl.model
def normal(first, second):
    mean = ppl.sample("mean", dist.Normal(0.0, 2.0))
    with ppl.plate("n", len(first)):
        ppl.sample("first/y", dist.Normal(mean, 1.0), obs=first)
    ppl.sample("second", dist.Normal(mean, 1.0).expand([len(second)]).mask(True), obs=second)


def posterior_of(y, rng, draws=2000):
    """Exact draws: mean given y is Normal(sum y / (n + 1/4), 1 / (n + 1/4))."""
    precision = len(y) + 0.25
    mean = (y.sum() + rng.normal(size=(2, draws)) * math.sqrt(precision)) / precision
    return ppl.Posterior(draws={"mean": mean.astype(np.float32)}, program=normal(y[:4], y[4:]))


def exact_elpd(y):
    """log p(y_i | y without i) by the conjugate formulas."""
    terms = []
    for i in range(len(y)):
        precision = len(y) - 1 + 0.25
        mean, variance = (y.sum() - y[i]) / precision, 1 + 1 / precision
        terms.append(-0.5 * (y[i] - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance))
    return np.array(terms)


def test_it_is_the_exact_leave_one_out_of_all_sites_together(rng):
    found = loo(posterior_of(Y, rng))
    np.testing.assert_allclose(found.elpd_i, exact_elpd(Y), atol=0.05)
    np.testing.assert_allclose(found.elpd, exact_elpd(Y).sum(), atol=0.1)
    assert 0.5 < found.p < 1.5


def test_one_site_alone(rng):
    found = loo(posterior_of(Y, rng), ["second"])
    np.testing.assert_allclose(found.elpd_i, exact_elpd(Y)[4:], atol=0.05)


def test_observations_that_cannot_be_left_out_are_named(rng):
    far = Y.copy()
    far[2] = 25.0
    with pytest.warns(ConvergenceWarning, match=r"for . of 6 observations, worst first/y\[n=2\]"):
        loo(posterior_of(far, rng))


def test_what_has_nothing_to_leave_out_is_refused(rng):
    with pytest.raises(AddressError, match=r"\['mean'\] are not observed.*\n.*\['first/y', 'second'\]"):
        loo(posterior_of(Y, rng), ["mean"])

    @ppl.model
    def one():
        ppl.sample(
            "y", dist.Normal(ppl.sample("a", dist.Normal(0.0, 1.0)), 1.0).expand([2]).to_event(1), obs=jnp.ones(2)
        )

    with pytest.raises(ValueError, match="one observation"):
        loo(ppl.Posterior(draws={"a": np.zeros((1, 9), np.float32)}, program=one()))
