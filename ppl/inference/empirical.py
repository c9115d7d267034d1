"""A finite set of draws as a measure that a program can sample: how a posterior becomes a prior.

Law: `sample` picks draw i with probability `exp(log_weights[i])`, up to the rounding of one uniform number, and
`log_prob` is the log mass (not a density) of a value. It is fixed: gradients do not pass through the choice.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ppl.numerics.resampling import multinomial
from ppl.numerics.weights import log_sum_exp

_multinomial = jax.jit(multinomial, static_argnums=2)
"""One compilation: step by step, the first call takes seconds."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class EmpiricalMeasure:
    """A finite measure on draws: a value is one draw's choices, all addresses together.

    Attributes:
        draws: choices by address, with a leading axis of particles.
        log_weights: normalised log weights (nats).
    """

    draws: dict[str, Shaped[Array, "_particles ..."]]
    log_weights: Float[Array, "_particles"]

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> dict[str, Shaped[Array, "..."]]:
        """Pick draws in proportion to weight, independently."""
        count = math.prod(sample_shape)
        uniforms = jax.random.uniform(key, (count,), self.log_weights.dtype)
        ancestors = _multinomial(uniforms, self.log_weights, count).reshape(sample_shape)
        return {address: x[ancestors] for address, x in self.draws.items()}

    def log_prob(self, value: Mapping[str, Any]) -> Float[Array, ""]:
        """Log of the weight (nats) of all draws equal to `value` (NaN is itself); minus infinity where none is."""
        same = jnp.ones(self.log_weights.shape, bool)
        for address, x in self.draws.items():
            given = jnp.asarray(value[address])[None]
            equal = (x == given) | ((x != x) & (given != given))
            same &= jnp.all(equal.reshape(equal.shape[0], -1), axis=1)
        return log_sum_exp(jnp.where(same, self.log_weights, -jnp.inf))
