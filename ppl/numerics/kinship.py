"""How much of a particle filter's evidence is noise, told from the families in which its particles descend.

The first particles are put into groups of neighbours, and every particle carries the label of its group. Groups are
nearly independent filters: resampling ties them together by the number of their descendants alone, whose own noise is
small and known (`drift`). With F_g the share of the weight that descends from group g,

    D = -log(1 - sum_g F_g^2)

grows, on average, by the variance of the log evidence and by the drift. Chan and Lai (2013) and Lee and Whiteley,
*Variance estimation in the particle filter* (Biometrika 2018), eq. 8, are the case of one particle a group and
multinomial resampling. Few families are left after long runs. Therefore every particle carries the labels of three
generations, and a *relabelling* drops the oldest: the growth of D is that of labels that are at least two generations
old, a fixed lag as in Olsson and Douc, *Numerically stable online estimation of variance in particle filters*
(Bernoulli 2019). Biased downwards where the weights of the far past go on telling particles apart for longer than that.
"""

from functools import reduce
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from ppl.numerics.weights import normalize_log_weights

GENERATION = 0.06
"""Sum of 1/ESS over the resamplings of a generation: a pair of particles then has a common ancestor that often."""
BITS = 8
PROBES = 4
LARGEST = 1.0 - 1e-6

# Noise of the descendants of groups in one resampling: sum over groups of Var(share). With one uniform, or one a
# stratum, only the two ends of a group of neighbours are random: on average f (1 - f) / n^2 = 1 / (6 n^2) each time.
_BY_GROUP = {"systematic": 1 / 6, "ssp": 1 / 6, "stratified": 1 / 3}
_BY_PARTICLE = {"multinomial": 1.0, "metropolis": 1.0, "residual": 0.4, "killing": 0.7}


class Kinship(NamedTuple):
    """What is known of the families of a run so far.

    Attributes:
        clock: Sum of 1/ESS over the resamplings since the last relabelling.
        growth: Growth of D up to the last relabelling.
        base: D of the oldest labels there.
        relabelled: How often there was a relabelling.
        fewest: The least number of families that D was taken of.
    """

    clock: Float[Array, ""]
    growth: Float[Array, ""]
    base: Float[Array, ""]
    relabelled: Int32[Array, ""]
    fewest: Int32[Array, ""]


def groups(n: int) -> int:
    """The number of groups that `n` particles are put into."""
    return min(n, 64) if n < 300 else 128 if n < 2000 else 2**BITS


def group_of(place: Int32[Array, "particles"], n: int) -> Int32[Array, "particles"]:
    """The group of a place among `n`: neighbours are together.

    Examples:
        >>> import jax.numpy as jnp
        >>> group_of(jnp.array([0, 3, 4, 999], jnp.int32), 1000).tolist()
        [0, 0, 0, 127]
    """
    size, rest = divmod(n, groups(n))  # the first `rest` groups have one more
    return jnp.where(place < rest * (size + 1), place // (size + 1), (place - rest) // size).astype(jnp.int32)


def first_labels(n: int) -> Int32[Array, "n"]:
    """The labels of the first particles: three generations in one integer, all the same."""
    fresh = group_of(jnp.arange(n, dtype=jnp.int32), n)
    return fresh | fresh << BITS | fresh << 2 * BITS


def start(log_weights: Float[Array, "particles"]) -> Kinship:
    """Before the first resampling of particles that are independent, whatever their weights."""
    n = log_weights.shape[0]
    size, rest = divmod(n, groups(n))
    pairs = (rest * (size + 1) ** 2 + (groups(n) - rest) * size**2) / n**2
    zero, none = jnp.zeros((), log_weights.dtype), jnp.int32(0)
    return Kinship(zero, zero, _log_distinct(jnp.asarray(pairs, log_weights.dtype)), none, jnp.int32(n))


def tick(
    kinship: Kinship,
    labels: Int32[Array, "particles"],
    log_weights: Float[Array, "particles"],
    ess: Float[Array, ""],
) -> tuple[Kinship, Int32[Array, "particles"]]:
    """After a transformation of the population, perhaps a resampling; perhaps relabel.

    Args:
        kinship: What is known so far.
        labels: The particles' labels.
        log_weights: Their log weights (nats); equal ones are those of a resampling.
        ess: The effective sample size before it.

    Returns:
        What is known now, and the labels.
    """
    n = log_weights.shape[0]
    first, *others = (log_weights[place * (n - 1) // PROBES] for place in range(PROBES + 1))
    even = reduce(jnp.logical_and, [first == other for other in others], ess > 0)
    passed = jnp.where(even, 1.0 / jnp.maximum(ess, 1.0), 0.0)
    kinship = kinship._replace(clock=kinship.clock + passed.astype(kinship.clock.dtype))
    return lax.cond(
        kinship.clock > GENERATION, _relabelled, lambda k, labels, _: (k, labels), kinship, labels, log_weights
    )


def variance(
    kinship: Kinship, labels: Int32[Array, "particles"], log_weights: Float[Array, "particles"]
) -> tuple[Float[Array, ""], Int32[Array, ""]]:
    """The variance of the log evidence by the end of the run, drift included, and the least number of families seen.

    Args:
        kinship: What is known.
        labels: The particles' labels.
        log_weights: Their log weights (nats).

    Returns:
        Nats squared; the number.
    """
    shares, present = _shares(labels, log_weights)
    growth = kinship.growth + _log_distinct(jnp.sum(shares**2)) - kinship.base
    return growth, jnp.minimum(kinship.fewest, present)


def drift(scheme: str, n: int) -> float:
    """Growth of D by one resampling that is the noise of the numbers of descendants alone.

    Args:
        scheme: The scheme's name; an unknown one counts as systematic.
        n: Number of particles.
    """
    if scheme in _BY_PARTICLE:
        return _BY_PARTICLE[scheme] / n
    return _BY_GROUP.get(scheme, 1 / 6) * groups(n) / n**2


def _relabelled(
    kinship: Kinship, labels: Int32[Array, "particles"], log_weights: Float[Array, "particles"]
) -> tuple[Kinship, Int32[Array, "particles"]]:
    """Close the stretch of the oldest labels; the next generation becomes the oldest, and the present one the youngest.

    The first labels stay the oldest until there are two younger generations.
    """
    n = log_weights.shape[0]
    growth, fewest = variance(kinship, labels, log_weights)
    mask = 2**BITS - 1
    oldest, middle, youngest = labels & mask, labels >> BITS & mask, labels >> 2 * BITS
    aged = jnp.where(kinship.relabelled >= 2, middle, oldest), jnp.where(kinship.relabelled >= 1, youngest, middle)
    labels = aged[0] | aged[1] << BITS | group_of(jnp.arange(n, dtype=jnp.int32), n) << 2 * BITS
    base = _log_distinct(jnp.sum(_shares(labels, log_weights)[0] ** 2))
    return Kinship(jnp.zeros_like(kinship.clock), growth, base, kinship.relabelled + 1, fewest), labels


def _shares(labels: Array, log_weights: Array) -> tuple[Float[Array, "groups"], Int32[Array, ""]]:
    """The share of the weight of each family of the oldest labels, and how many have any."""
    weights = jnp.exp(normalize_log_weights(log_weights).log_weights)
    shares = jnp.zeros(groups(log_weights.shape[0]), weights.dtype).at[labels & (2**BITS - 1)].add(weights)
    return shares, jnp.sum(shares > 0, dtype=jnp.int32)


def _log_distinct(pairs: Float[Array, ""]) -> Float[Array, ""]:
    """D, from the probability that two particles are of one family."""
    return -jnp.log1p(-jnp.minimum(pairs, LARGEST))
