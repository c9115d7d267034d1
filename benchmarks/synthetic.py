"""Two Gaussians in 100 dimensions and a logistic regression, as models; their data are in `benchmarks.targets`."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import ppl
import ppl.distributions as dist
from benchmarks.posteriordb.regressions import flat_vector
from ppl.semantics.model import Model


@ppl.model
def gaussian(root: Float[Array, "dim dim"]) -> None:
    """A normal law around zero with precision matrix root' root."""
    x = ppl.sample("x", flat_vector(root.shape[0]))
    ppl.factor("density", -0.5 * jnp.sum((root @ x) ** 2))


@ppl.model
def logistic(x: Float[Array, "rows columns"], y: Int[Array, "rows"]) -> Any:
    """Logistic regression with standard normal coefficients."""
    beta = ppl.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 1.0))
    ppl.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)
    return beta


SYNTHETIC: dict[str, Model] = {
    "gaussian-100-correlated": gaussian,
    "gaussian-100-condition-1e4": gaussian,
    "logistic-1000x20": logistic,
}
