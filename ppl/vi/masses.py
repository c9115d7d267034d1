"""Probabilities of finite outcomes whose derivatives are right at impossible outcomes too.

The derivative of `exp(log p)` is lost where p is zero; that of p is not. So laws given by probabilities are read
off directly, and only the others through their log densities.
"""

import math
from functools import singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from ppl.distributions.drawn import law_of_draws
from ppl.distributions.finite import outcomes, spread
from ppl.vi.lanes import Lanes


@singledispatch
def masses(measure: Any) -> Any:
    """The probability of each outcome of a finite law, in the order of `outcomes`.

    Args:
        measure: A finite law.

    Returns:
        Shape `(K, *batch)`.

    Examples:
        >>> slope = jax.grad(lambda p: masses(dist.Bernoulli(p))[0])(1.0)
        >>> float(slope)
        -1.0
    """
    found = outcomes(measure)
    assert found is not None
    return jnp.exp(found.log_probs)


@masses.register
def _coins(measure: dist.BernoulliProbs) -> Any:
    probs = jnp.asarray(measure.probs)
    return jnp.stack([1.0 - probs, probs])


@masses.register
def _dice(measure: dist.CategoricalProbs) -> Any:
    return jnp.moveaxis(jnp.asarray(measure.probs), -1, 0)


@masses.register
def _independent(measure: dist.Independent) -> Any:
    return masses(measure.base_dist)


@masses.register
def _expanded(measure: dist.ExpandedDistribution) -> Any:
    inner = masses(measure.base_dist)
    return spread(inner, inner.ndim - 1, measure.batch_shape, leading=1)


@masses.register
def _lanes(measure: Lanes) -> Any:
    return jax.vmap(lambda m: masses(law_of_draws(m)), out_axes=1)(measure.measure)


def joint_masses(each: Any) -> Any:
    """The probabilities of the joint outcomes of a batch, in the order of `joint_outcomes`.

    Args:
        each: The probabilities of every element's outcomes, shape `(K, *batch)`.

    Returns:
        Shape `(K ** n,)`.
    """
    size, *batch = each.shape
    count = math.prod(batch)
    flat, joint = each.reshape(size, count), jnp.ones(1, each.dtype)
    for element in range(count):
        joint = (joint[:, None] * flat[None, :, element]).reshape(-1)
    return joint
