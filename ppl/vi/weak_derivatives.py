"""Measure-valued derivatives: the derivative of a law is a difference of two laws, and each of them can be drawn from.

    d E[f(x)] = sum_i sum_a  w_ia (f(x with element i at value a) - f(x)) dtheta_ia

Each element i of a batch is changed alone, the others staying at their drawn values, so that the derivative of every
element sees only what that element does (a sum over the elements' effects, Rao-Blackwellised). `f(x)` is the cost of
the run at hand; the other values of `f` are runs in which everything is drawn once, from the same keys (common random
numbers), and nothing is differentiated: they never branch again.

Cost: a choice with n elements and A alternatives an element adds n A undifferentiated runs of what follows it, side by
side (`vmap`); A is 1 for Bernoulli and Poisson choices, K - 1 for categorical ones, 3 for normal ones. A program with T
such choices in a row, or one in a loop of T steps (unrolled, T at most `surrogate.UNROLLED`), makes T n A of them, on
average half a program long. Where the cost is a sum over data, give each its own `vi.expect`: a batch of n
choices whose cost is evaluated as a whole costs n wholes.

Mohamed, Rosca, Figurnov, Mnih, *Monte Carlo gradient estimation in machine learning* (JMLR 21, 2020), section 6 and
table 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from ppl.distributions.drawn import law_of_draws
from ppl.distributions.finite import spread
from ppl.errors import StrategyError
from ppl.semantics.keys import site_key
from ppl.vi.lanes import Lanes
from ppl.vi.strategy import Node, Rest, Run, from_noise, with_tangent

Parameters = tuple[Any, ...]


class Alternatives(NamedTuple):
    """Other values for every element, leading axis `A`, all leaves of shape `(A, *batch)`.

    The derivative of an element's expectation is the sum over `A` of `weights * (f(value) - f(drawn)) * d parameters`.
    `possible` says which values have mass: where one has none, a cost that is not finite counts for nothing.
    """

    values: Any
    weights: Any
    parameters: Any
    possible: Any


class Family(NamedTuple):
    """A family of one-dimensional laws with a measure-valued derivative.

    Attributes:
        read: From a distribution to its parameters, each of shape `(*batch, *own)`.
        own: How many trailing axes each parameter has beyond the batch.
        alternatives: From parameters, drawn values and a key to what the elements are changed to.
    """

    read: Callable[[Any], Parameters]
    own: tuple[int, ...]
    alternatives: Callable[[Parameters, Any, Any], Alternatives]


@dataclass(frozen=True)
class MeasureValued:
    """The weak derivative of each element, by runs at other values. No baseline, and the rest may be discontinuous."""

    direct: bool = False

    def expect(self, node: Node, run: Run, rest: Rest) -> Any:
        """The rest at the draw; its derivative gains those of the law's own parameters."""
        if run.primal:
            return from_noise(node, run, lambda raw: rest(jax.lax.stop_gradient(raw), run))
        family, parameters = elements(node.measure, node)
        key = jax.random.fold_in(site_key(run.key, node.address, node.where.loop), 1)

        def then(raw: Any) -> Any:
            value = jax.lax.stop_gradient(raw)
            found = family.alternatives(parameters, value, key)
            cost = rest(value, run)
            alone = run._replace(primal=True)
            base = cost if _drawn_once(run) else rest(value, alone)
            others = jax.vmap(lambda changed: rest(changed, alone))(_changed(value, found.values))
            gain = others.reshape(found.weights.shape) - jax.lax.stop_gradient(base)
            counted = (jnp.isfinite(gain) | found.possible) & jnp.isfinite(base)
            scale = jax.lax.stop_gradient(jnp.where(counted, found.weights * gain, 0.0))
            return with_tangent(cost, jnp.ones_like(cost), jnp.sum(scale * found.parameters).astype(cost.dtype))

        return from_noise(node, run, then)


def measure_valued() -> MeasureValued:
    """The measure-valued derivative of a choice: by runs of what follows it at other values, each element by itself.

    For Bernoulli, categorical, Poisson and normal choices, in batches and lanes too. Unbiased whatever the rest is, and
    exact in this choice where it is a single coin.

    Raises:
        StrategyError: while tracing, at a choice of another family.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @vi.objective
        ... def cost(p):
        ...     b = ppl.sample("b", dist.Bernoulli(p), grad=vi.measure_valued())
        ...     return jax.numpy.where(b, 0.0, -p / 2)
        >>> round(float(jax.grad(cost.expect)(0.25)), 4)  # d/dp of -(1 - p) p / 2
        -0.25
    """
    return MeasureValued()


def elements(measure: Any, node: Node) -> tuple[Family, Parameters]:
    """The family of a batch of independent one-dimensional laws, and its parameters for every element.

    Args:
        measure: A distribution; expanded, independent or in lanes.
        node: The choice, for messages.

    Returns:
        The family, and parameters of shape `(*value's shape, *own)`.
    """
    if isinstance(measure, Lanes):
        found = []

        def lane(inner: Any) -> Parameters:
            family, parameters = elements(law_of_draws(inner), node)
            found.append(family)
            return parameters

        parameters = jax.vmap(lane)(measure.measure)
        return found[0], parameters
    if isinstance(measure, dist.Independent):
        return elements(measure.base_dist, node)
    if isinstance(measure, dist.ExpandedDistribution):
        family, parameters = elements(measure.base_dist, node)
        return family, _spread(parameters, family.own, measure.batch_shape)
    family = FAMILIES.get(type(measure))
    if family is None:
        raise StrategyError(
            f"The choice {node} is to have a measure-valued derivative, but its law is a {type(measure).__name__}.\n"
            f"Expected: one of {', '.join(kind.__name__ for kind in FAMILIES)}, expanded, independent or in lanes.\n"
            "Fix: vi.reparam() where the draw can be differentiated, vi.enumerate() where the support is finite, "
            "else vi.score()."
        )
    return family, _spread(family.read(measure), family.own, measure.batch_shape)


def _spread(parameters: Parameters, own: tuple[int, ...], batch: tuple[int, ...]) -> Parameters:
    """Parameters for every element of a larger batch."""
    leaves = map(jnp.asarray, parameters)
    return tuple(spread(leaf, leaf.ndim - trailing, batch) for leaf, trailing in zip(leaves, own, strict=True))


def _changed(value: Any, alternatives: Any) -> Any:
    """The value with one element changed, for every alternative and element: shape `(A * n, *batch)`."""
    count, size = len(alternatives), value.size
    rows = jnp.where(
        jnp.eye(size, dtype=bool)[None],
        alternatives.reshape(count, size, 1).astype(value.dtype),
        value.reshape(1, 1, size),
    )
    return rows.reshape(count * size, *value.shape)


def _drawn_once(run: Run) -> bool:
    """Whether a run's value is that of the run in which every choice is drawn once from the same keys."""
    return run.exact or all(s.direct or isinstance(s, MeasureValued) for s in run.strategies.values())


# --- the families ----------------------------------------------------------------------------------------------------


def _coin(parameters: Parameters, value: Any, key: Any) -> Alternatives:
    """`(f(1) - f(0)) dp`, one of the two being the draw."""
    del key
    (probs,) = parameters
    heads = value == 1
    chance = jnp.where(heads, 1.0 - probs, probs)
    return Alternatives((1 - value)[None], jnp.where(heads, -1.0, 1.0)[None], probs[None], (chance > 0)[None])


def _die(parameters: Parameters, value: Any, key: Any) -> Alternatives:
    """`sum_k (f(k) - f(x)) dp_k`: the probabilities add up to one, so `f(x)` may be taken off."""
    del key
    (probs,) = parameters
    size = probs.shape[-1]
    shifts = jnp.arange(1, size, dtype=value.dtype).reshape(-1, *(1,) * value.ndim)
    others = (value[None] + shifts) % size
    chances = jnp.moveaxis(jnp.take_along_axis(probs, jnp.moveaxis(others, 0, -1), axis=-1), -1, 0)
    return Alternatives(others, jnp.ones_like(chances), chances, chances > 0)


def _counts(parameters: Parameters, value: Any, key: Any) -> Alternatives:
    """`(f(x + 1) - f(x)) dlambda`."""
    del key
    (rate,) = parameters
    return Alternatives((value + 1)[None], jnp.ones_like(rate)[None], rate[None], (rate > 0)[None])


def _bell(parameters: Parameters, value: Any, key: Any) -> Alternatives:
    """Mean: `(f(mu + sd W) - f(mu - sd W)) dmu / (sd sqrt(2 pi))`, W Weibull; sd: `(f(mu + sd M) - f(x)) dsd / sd`.

    The two parts of the mean share their W, whose density is `w exp(-w^2 / 2)`. M has the density of a double-sided
    Maxwell, proportional to `m^2 exp(-m^2 / 2)`; it is coupled to the draw `x = mu + sd N`: three normals make a radius
    of which N is one coordinate, so `M = sign(N) sqrt(N^2 + 2 E)` with E standard exponential.
    """
    mean, sd = parameters
    fixed_mean, fixed_sd = jax.lax.stop_gradient(parameters)
    for_mean, for_sd = 2.0 * jax.random.exponential(key, (2, *mean.shape), mean.dtype)
    noise = (value - fixed_mean) / fixed_sd
    weibull = jnp.sqrt(for_mean)
    maxwell = jnp.where(noise < 0, -1.0, 1.0) * jnp.sqrt(noise**2 + for_sd)
    slope = 1.0 / (fixed_sd * jnp.sqrt(2.0 * jnp.pi))
    values = fixed_mean[None] + fixed_sd[None] * jnp.stack([weibull, -weibull, maxwell])
    weights = jnp.stack([slope, -slope, 1.0 / fixed_sd])
    return Alternatives(values, weights, jnp.stack([mean, mean, sd]), jnp.ones(values.shape, bool))


def _probs(measure: Any) -> Parameters:
    return (measure.probs,)


FAMILIES: dict[type, Family] = {
    dist.BernoulliProbs: Family(_probs, (0,), _coin),
    dist.BernoulliLogits: Family(lambda m: (jax.nn.sigmoid(m.logits),), (0,), _coin),
    dist.CategoricalProbs: Family(_probs, (1,), _die),
    dist.CategoricalLogits: Family(lambda m: (jax.nn.softmax(m.logits, axis=-1),), (1,), _die),
    dist.Poisson: Family(lambda m: (m.rate,), (0,), _counts),
    dist.Normal: Family(lambda m: (m.loc, m.scale), (0, 0), _bell),
}
"""The laws with a measure-valued derivative. The probability itself is differentiated, whatever it is made of."""
