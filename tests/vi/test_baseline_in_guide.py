"""A learned baseline of a guide's choice reaches the objective: it learns, and the gradient of the rest stays right."""

import jax
import jax.numpy as jnp
import numpy as np

import ppl
import ppl.distributions as dist
from ppl import vi


@ppl.model
def model():
    z = ppl.sample("z", dist.Bernoulli(0.3))
    ppl.sample("w", dist.Bernoulli(jnp.where(z, 0.8, 0.1)))


@ppl.model
def guide(params):
    z = ppl.sample("z", vi.baseline(dist.Bernoulli(params["p"]), params["b"][0]), grad=vi.score())
    coins = vi.baseline(dist.Bernoulli(jnp.where(z, 0.6, params["p"])), params["b"][1])
    ppl.sample("w", coins, grad=vi.score())


def test_a_baseline_learns_inside_an_elbo():
    """The ascent of b is the mean of cost - b: that of the regression; without baselines its gradient would be 0."""
    params = {"p": jnp.float32(0.4), "b": jnp.array([5.0, -2.0])}
    value, grads = jax.value_and_grad(vi.elbo(model(), guide).expect)(params)

    def exact(p):
        total = 0.0
        for z, w in ((0, 0), (0, 1), (1, 0), (1, 1)):
            chances = [(p, 0.3, z), (0.6 if z else p, 0.8 if z else 0.1, w)]
            q, m = (jnp.array([c[i] if c[2] else 1.0 - c[i] for c in chances]).prod() for i in (0, 1))
            total += q * (jnp.log(m) - jnp.log(q))
        return total

    np.testing.assert_allclose(value, exact(0.4), rtol=1e-5)
    np.testing.assert_allclose(grads["p"], jax.grad(exact)(0.4), rtol=1e-4)
    np.testing.assert_allclose(grads["b"], value - params["b"], rtol=1e-5)
