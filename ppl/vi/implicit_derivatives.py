"""Implicit pathwise derivatives: the draw moves so that its cumulative probability stays the same.

    F(x; theta) constant   =>   dx = -(dF/dtheta) dtheta / p(x)

Any sampler will do, rejection included. One-dimensional continuous laws, element by element; for gamma, beta, Dirichlet
and student-t choices the sampler's own derivative is taken (JAX differentiates its gamma draws implicitly).

Figurnov, Mohamed, Mnih, *Implicit reparameterization gradients* (NeurIPS 2018), eq. 5.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from ppl.distributions.drawn import law_of_draws
from ppl.errors import StrategyError
from ppl.vi.strategy import Node, Rest, Run, Totals, expect_directly, nothing, with_tangent

NODES = 64
"""Quadrature nodes of the von Mises law's cumulative probability."""


@dataclass(frozen=True)
class Implicit:
    """Differentiate the draw through the cumulative probability; the rest must be smooth in it."""

    direct: bool = True

    def made(self, node: Node, raw: Any, run: Run) -> tuple[Any, Totals]:
        """The draw, with its derivative."""
        del run
        return moved(node.measure, raw, node), nothing()

    def expect(self, node: Node, run: Run, rest: Rest) -> Any:
        """The rest at the draw."""
        return expect_directly(self, node, run, rest)


def implicit() -> Implicit:
    """Differentiate a draw through its cumulative probability: for mixtures, von Mises, and every law with a `cdf`.

    Valid where the rest of the objective is continuous in the value and differentiable almost everywhere; for a mixture
    the density must be positive between the components.

    Raises:
        StrategyError: while tracing, at a choice without a cumulative probability.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @vi.objective
        ... def mean(weight):
        ...     half = dist.Categorical(jax.numpy.stack([1 - weight, weight]))
        ...     mixture = dist.MixtureSameFamily(half, dist.Normal(jax.numpy.array([0.0, 2.0]), 1.0))
        ...     return ppl.sample("x", mixture, grad=vi.implicit())
        >>> bool(abs(mean.average(4000).grad(0, 0.3) - 2.0) < 0.2)
        True
    """
    return Implicit()


def moved(measure: Any, raw: Any, node: Node) -> Any:
    """A draw whose derivative keeps its cumulative probability; the draw itself where the sampler is differentiable."""
    law = base_law(measure)
    if isinstance(law, OWN_DERIVATIVE):
        return raw
    value = jax.lax.stop_gradient(raw)
    with jax.numpy_rank_promotion("allow"):  # NumPyro's laws meet values of a larger batch
        probability = cdf(law, value)
        if probability is None:
            raise _no_cdf(node, law)
        density = jnp.exp(law.log_prob(value))
    return with_tangent(value, -1.0 / jax.lax.stop_gradient(density), probability.astype(value.dtype))


def base_law(measure: Any) -> Any:
    """The law of a batch's elements."""
    law = law_of_draws(measure)
    if isinstance(law, dist.Independent | dist.ExpandedDistribution):
        return base_law(law.base_dist)
    return law


def cdf(law: Any, value: Any) -> Any | None:
    """The cumulative probability of each element, differentiable in the parameters; None where there is none."""
    if isinstance(law, dist.VonMises):
        return von_mises_cdf(value - law.loc, law.concentration)
    if isinstance(law, dist.MixtureSameFamily):
        inner = cdf(law.component_distribution, value[..., None])
        return None if inner is None else _mixed(inner, law)
    if isinstance(law, dist.MixtureGeneral):
        parts = [cdf(component, value) for component in law.component_distributions]
        known = [part for part in parts if part is not None]
        return _mixed(jnp.stack(known, axis=-1), law) if len(known) == len(parts) else None
    if isinstance(law, dist.Independent) or law.event_shape or isinstance(law, OWN_DERIVATIVE):
        return None
    try:
        return law.cdf(value)
    except NotImplementedError:
        return None


def _mixed(components: Any, law: Any) -> Any:
    """The components' probabilities on the last axis, weighed."""
    return jnp.sum(components * law.mixing_distribution.probs, axis=-1)


def von_mises_cdf(angle: Any, concentration: Any) -> Any:
    """Cumulative probability of a centred von Mises law, from `-pi` on.

    `1/2 + integral from 0 to z of exp(k (cos t - 1)) dt / (2 pi I_0(k) exp(-k))`, z the angle wrapped to (-pi, pi], by
    Gauss-Legendre quadrature with `NODES` nodes on (0, z). A draw lies a few widths from the mode.

    Args:
        angle: Difference to the location, in radians.
        concentration: Concentration, positive.
    """
    z = (angle + jnp.pi) % (2.0 * jnp.pi) - jnp.pi
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    z, concentration = jnp.broadcast_arrays(z, concentration)
    leading = (1,) * z.ndim
    at = 0.5 * z[..., None] * jnp.asarray(nodes + 1.0, z.dtype).reshape(*leading, NODES)
    heights = jnp.exp(concentration[..., None] * (jnp.cos(at) - 1.0))
    area = 0.5 * z * jnp.sum(heights * jnp.asarray(weights, z.dtype).reshape(*leading, NODES), axis=-1)
    return 0.5 + area / (2.0 * jnp.pi * jax.scipy.special.i0e(concentration))


def _no_cdf(node: Node, law: Any) -> StrategyError:
    return StrategyError(
        f"The choice {node} is to be differentiated implicitly, but its law {type(law).__name__} has no cumulative "
        "probability in one dimension that can be differentiated.\n"
        "Fix: vi.reparam() where the draw can be differentiated, else vi.score()."
    )


OWN_DERIVATIVE = (
    dist.Gamma,
    dist.Beta,
    dist.BetaProportion,
    dist.Dirichlet,
    dist.Chi2,
    dist.InverseGamma,
    dist.StudentT,
)
"""Laws whose NumPyro samplers are differentiable already, being made of gamma draws."""
