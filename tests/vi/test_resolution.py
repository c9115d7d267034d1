"""Which strategy a choice has when its site names none, and strategies that cannot be."""

import jax.numpy as jnp
import pytest

import ppl
import ppl.distributions as dist
from ppl import vi
from ppl.errors import StrategyError

MIXTURE = dist.MixtureSameFamily(dist.Categorical(jnp.array([0.3, 0.7])), dist.Normal(jnp.zeros(2), 1.0))


@ppl.model
def choices(t):
    ppl.sample("normal", dist.Normal(t, 1.0))
    ppl.sample("gamma", dist.Gamma(t, 1.0))
    ppl.sample("coin", dist.Bernoulli(t))
    ppl.sample("coins", dist.Bernoulli(t * jnp.ones(3)))
    ppl.sample("many", dist.Bernoulli(t * jnp.ones(5)))
    ppl.sample("count", dist.Poisson(t))
    ppl.sample("angle", dist.VonMises(t, 1.0))
    ppl.vmap(lambda: ppl.sample("lane", dist.Bernoulli(t)), axis_size=2)()
    ppl.sample("chosen", dist.Normal(t, 1.0), grad=vi.score())


def test_defaults_follow_the_rule():
    names = {address: chosen.name for address, chosen in vi.strategies(choices(0.4)).items()}
    assert names == {
        "normal": "reparam",
        "gamma": "reparam",
        "coin": "enumerate",
        "coins": "enumerate",
        "many": "score",
        "count": "score",
        "angle": "score",
        "lane": "score",
        "chosen": "score",
    }


@pytest.mark.parametrize(
    ("law", "fix"), [(dist.Bernoulli(0.3), "enumerate"), (dist.Poisson(2.0), "score"), (MIXTURE, "implicit")]
)
def test_a_law_without_a_differentiable_sampler_is_not_reparameterised(law, fix):
    @vi.objective
    def cost(t):
        return t * ppl.sample("z", law, grad=vi.reparam())

    with pytest.raises(StrategyError, match=rf"(?s)'z' \(test_resolution.py:\d+\).*has_rsample.*{fix}"):
        cost.grad(0, 1.0)


@pytest.mark.parametrize("grad", [3, vi.reparam])
def test_what_is_no_strategy_is_refused(grad):
    @vi.objective
    def cost(t):
        return ppl.sample("z", dist.Normal(t, 1.0), grad=grad)

    with pytest.raises(StrategyError, match=r"'z' \(test_resolution.py:\d+\) was given grad="):
        cost.grad(0, 1.0)


def test_an_observation_or_a_factor_in_an_objective_is_refused():
    @vi.objective
    def observing(t):
        return ppl.sample("y", dist.Normal(t, 1.0), obs=0.3)

    @vi.objective
    def weighing(t):
        ppl.factor("f", t)
        return ppl.sample("z", dist.Normal(t, 1.0))

    with pytest.raises(StrategyError, match=r"(?s)observes 'y' \(test_resolution.py:\d+\).*vi.log_density"):
        observing.grad(0, 1.0)
    with pytest.raises(StrategyError, match=r"(?s)factor 'f' \(test_resolution.py:\d+\).*vi.log_density"):
        weighing.grad(0, 1.0)
