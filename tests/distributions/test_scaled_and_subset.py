"""Distributions behind subsampled plates: scaled densities, uniform ordered subsets, and laws of draws."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints, transforms

from ppl.distributions.drawn import law_of_draws
from ppl.distributions.scaled import Scaled
from ppl.distributions.subset import RandomSubset


@pytest.fixture(autouse=True)
def _numpyro_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def test_a_scaled_density_is_scaled_and_its_draws_are_not(key):
    base = dist.Gamma(jnp.array([1.0, 2.0, 5.0]), 0.7)
    scaled = Scaled(base, jnp.array([0.5, 1.0, 3.0]))
    value = scaled.sample(key)
    np.testing.assert_array_equal(value, base.sample(key))
    np.testing.assert_allclose(scaled.log_prob(value), np.array([0.5, 1.0, 3.0]) * base.log_prob(value), rtol=1e-6)
    assert (scaled.batch_shape, scaled.event_shape, scaled.support) == ((3,), (), base.support)


def test_the_scale_is_a_dynamic_leaf():
    density = jax.jit(lambda s: s.log_prob(1.5))
    one = dist.Normal(0.3, 2.0)
    got = [density(Scaled(one, jnp.asarray(s))) for s in (0.25, 4.0)]
    np.testing.assert_allclose(got, [0.25 * one.log_prob(1.5), 4.0 * one.log_prob(1.5)], rtol=1e-6)
    assert density._cache_size() == 1


def test_subsets_are_uniform_over_orders(key):
    """Chi-square over the 12 ordered pairs of 4 at a false-alarm rate of 1e-6 (critical value 49.9 at 11 degrees)."""
    draws = RandomSubset(4, 2).sample(key, (6000,))
    counts = Counter(map(tuple, draws.tolist()))
    assert len(counts) == 12
    assert sum((count - 500.0) ** 2 / 500.0 for count in counts.values()) < 49.9


def test_support_of_a_subset_is_distinct_indices_in_range():
    support = RandomSubset(5, 3).support
    values = jnp.array([[4, 0, 2], [1, 1, 2], [0, 1, 5], [-1, 0, 1]])
    np.testing.assert_array_equal(support(values), [True, False, False, False])


def test_a_subset_larger_than_the_population_is_an_error():
    with pytest.raises(ValueError, match="size 3 and subsample_size 4"):
        RandomSubset(3, 4)


NORMAL = dist.Normal(jnp.array([1.0, -2.0]), 0.5)
MASK = jnp.array([True, False])


@pytest.mark.parametrize(
    ("wrapped", "expected"),
    [
        (NORMAL, NORMAL),
        (Scaled(NORMAL.mask(MASK), 2.0), NORMAL),
        (NORMAL.mask(MASK).expand((3, 2)), NORMAL.expand((3, 2))),
        (NORMAL.mask(MASK).to_event(1), NORMAL.to_event(1)),
        (dist.TransformedDistribution(NORMAL.mask(MASK), transforms.ExpTransform()), dist.LogNormal(NORMAL.loc, 0.5)),
    ],
)
def test_law_of_draws_is_normalised_and_draws_alike(wrapped, expected, key):
    law = law_of_draws(wrapped)
    value = law.sample(key)
    np.testing.assert_allclose(value, wrapped.sample(key), rtol=1e-6)
    np.testing.assert_allclose(law.log_prob(value), expected.log_prob(value), rtol=1e-5)
    assert (law.batch_shape, law.event_shape) == (wrapped.batch_shape, wrapped.event_shape)


@pytest.mark.parametrize("support", [constraints.positive, constraints.ordered_vector, constraints.interval(-1.0, 2.5)])
def test_an_improper_uniform_gets_draws_in_its_support(support, key):
    improper = dist.ImproperUniform(support, (2,), (3,))
    law = law_of_draws(improper)
    value = law.sample(key)
    assert value.shape == (2, 3)
    assert jnp.all(support(value))
    assert law.log_prob(value).shape == improper.log_prob(value).shape == (2,)
