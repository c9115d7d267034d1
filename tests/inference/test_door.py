"""`ppl.infer`: what it takes, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
import ppl.distributions as dist
from ppl.errors import NaNError
from ppl.inference.door import infer
from ppl.inference.importance import Importance
from ppl.inference.method import Method
from ppl.inference.posterior import Posterior


@ppl.model
def coin(y):
    p = ppl.sample("p", dist.Beta(2.0, 1.0))
    ppl.sample("y", dist.Bernoulli(p), obs=y)


DATA = jnp.array([1, 0, 1])


def test_an_int_and_its_key_give_the_same_posterior():
    first = infer(coin(DATA), Importance(50), key=7)
    second = infer(coin(DATA), Importance(50), key=jax.random.key(7))
    assert jnp.array_equal(first.draws["p"], second.draws["p"])
    assert not jnp.array_equal(first.draws["p"], infer(coin(DATA), Importance(50), key=8).draws["p"])


def test_a_method_of_the_users_own():
    class Prior:
        def run(self, program, key, settings):
            return Posterior({"p": program.simulate(key).choices["p"][None, None]}, method=f"{settings.draws}")

    assert isinstance(Prior(), Method)
    assert infer(coin(DATA), Prior(), key=0, draws=3).method == "3"


def test_wrong_arguments():
    with pytest.raises(TypeError, match="call the model with its arguments"):
        infer(coin, Importance(50), key=0)
    with pytest.raises(TypeError, match="given Importance as its method"):
        infer(coin(DATA), Importance, key=0)
    with pytest.raises(TypeError, match="given str as its method"):
        infer(coin(DATA), "importance", key=0)
    with pytest.raises(ValueError, match="chains=4, but ppl.Importance knows no such setting"):
        infer(coin(DATA), Importance(50), key=0, chains=4)


def test_data_are_checked_unless_told_otherwise():
    @ppl.model
    def program(y):
        mu = ppl.sample("mu", dist.Normal(0.0, 1.0))
        ppl.sample("y", dist.Normal(mu, 1.0), obs=y)

    bad = program(jnp.array([1.0, np.nan]))
    with pytest.raises(NaNError, match="'y'"):
        infer(bad, Importance(50), key=0)
    with pytest.raises(Exception, match="positive weight"):
        infer(bad, Importance(50), key=0, check_data=False)
