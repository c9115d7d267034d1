"""Scoring and drawing one site: total log densities, draws that differ by lane."""

from typing import Any

import jax.numpy as jnp

from ppl.distributions.density import log_prob
from ppl.distributions.drawn import law_of_draws
from ppl.semantics.jaxpr import lane_sampler


def total_log_prob(measure: Any, value: Any) -> Any:
    """Sum of the log densities over the batch, in the default float type."""
    return jnp.sum(log_prob(measure, value)).astype(jnp.result_type(float))


def draw(measure: Any, key: Any, lanes: int) -> Any:
    """Draw a value; inside lanes every lane gets bits of its own from the shared key."""
    if lanes == 0:
        return measure.sample(key)
    return lane_sampler(lambda key, measure: measure.sample(key), key, measure)


def drawn(measure: Any, key: Any, lanes: int) -> tuple[Any, Any]:
    """A draw that represents a measure, and its log weight: zero unless the law of draws is another than the measure.

    Masked, scaled and improper distributions, and finite measures that are not normalised, are drawn from a
    normalised law.
    """
    law = law_of_draws(measure)
    value = draw(law, key, lanes)
    if law is measure:
        return value, jnp.zeros((), jnp.result_type(float))
    return value, log_ratio(measure, law, value)


def log_ratio(measure: Any, law: Any, value: Any) -> Any:
    """Log of the density of a measure with respect to the law that a value was drawn from, in nats."""
    return total_log_prob(measure, value) - total_log_prob(law, value)
