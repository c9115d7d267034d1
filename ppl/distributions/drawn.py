"""The normalised law that draws of a distribution come from, where its log density says something else.

NumPyro lets a distribution's log density differ from the law of its draws: masked entries score zero, a scaled site
scores a multiple, an improper uniform has no draws at all. Law: `law_of_draws(d)` is normalised, has the shapes of `d`,
and its support holds that of `d`; so drawing from it and weighing by `d.log_prob(x) - law_of_draws(d).log_prob(x)`
represents the measure with density `d`.
"""

from functools import singledispatch
from typing import Any

import numpyro.distributions as dist
from numpyro.distributions.transforms import biject_to

from ppl.distributions.scaled import Scaled


@singledispatch
def law_of_draws(distribution: Any) -> Any:
    """The distribution whose draws `distribution.sample` returns, normalised.

    Args:
        distribution: A NumPyro distribution, or any other measure; `Scaled`, masked and improper uniform ones may
            lie at any depth of expanded, independent and transformed ones.

    Returns:
        The distribution itself where it is normalised already. For an improper uniform: a standard normal pushed
        through the bijection of its support.

    Examples:
        >>> import numpyro.distributions as dist
        >>> coin = dist.Bernoulli(0.25)
        >>> law_of_draws(Scaled(coin.mask(False), 3.0)) is coin
        True
    """
    return distribution


@law_of_draws.register
def _scaled(distribution: Scaled) -> dist.Distribution:
    return law_of_draws(distribution.base_dist)


@law_of_draws.register
def _masked(distribution: dist.MaskedDistribution) -> dist.Distribution:
    return law_of_draws(distribution.base_dist)


@law_of_draws.register
def _delta(distribution: dist.Delta) -> dist.Distribution:
    """The point alone: the log density of a `Delta` is a weight that its draws do not have."""
    weight = distribution.log_density
    if isinstance(weight, float) and weight == 0.0:
        return distribution
    return dist.Delta(distribution.v, 0.0, distribution.event_dim)


@law_of_draws.register
def _expanded(distribution: dist.ExpandedDistribution) -> dist.Distribution:
    base = law_of_draws(distribution.base_dist)
    return distribution if base is distribution.base_dist else base.expand(distribution.batch_shape)


@law_of_draws.register
def _independent(distribution: dist.Independent) -> dist.Distribution:
    base = law_of_draws(distribution.base_dist)
    same = base is distribution.base_dist
    return distribution if same else base.to_event(distribution.reinterpreted_batch_ndims)


@law_of_draws.register
def _transformed(distribution: dist.TransformedDistribution) -> dist.Distribution:
    base = law_of_draws(distribution.base_dist)
    same = base is distribution.base_dist
    return distribution if same else dist.TransformedDistribution(base, distribution.transforms)


@law_of_draws.register
def _improper(distribution: dist.ImproperUniform) -> dist.Distribution:
    bijection = biject_to(distribution.support)
    shape = bijection.inverse_shape(distribution.shape())
    noise = dist.Normal(0.0, 1.0).expand(shape).to_event(bijection.domain.event_dim)
    return dist.TransformedDistribution(noise, bijection)
