"""Everything that a universal law runs over, listed once: transformers, resamplers, distributions.

Add a line here with each new transformer, resampler or distribution: `tests/laws/test_catalogue.py` runs the universal
laws over the line, and fails where something public has none. Entries are thunks, so that the precision of the test at
hand decides on dtypes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

import ppl
import ppl.distributions as dist
from ppl import vi
from ppl.distributions.ancestors import Ancestors, ConditionalAncestors
from ppl.numerics.conditional_resampling import CONDITIONAL
from tests.oracle import transformers as oracle


class Transformer(NamedTuple):
    """A transformation of representations.

    Attributes:
        make: Makes the transformer.
        source: Makes a representation that it takes of a program.
        takes, gives: The classes of the two representations.
        size: The number of particles of the result (None: not a population).
    """

    make: Callable[[], Callable[[Any], Any]]
    source: Callable[[ppl.Program], Any]
    takes: type
    gives: type
    size: int | None = None


class Distribution(NamedTuple):
    """A distribution with asymmetric parameters.

    Attributes:
        make: Makes it.
        finite: Whether it lists its outcomes.
        mass: The total mass of the outcomes.
        covers: The NumPyro class (or our own name) whose line this is, for the check of completeness.
    """

    make: Callable[[], Any]
    covers: str
    finite: bool = True
    mass: float = 1.0


RESAMPLERS: dict[str, Callable[[oracle.Outcomes], oracle.Outcomes]] = {
    "multinomial": oracle.resample_multinomial,
    "systematic": oracle.resample_systematic,
    "stratified": oracle.resample_stratified,
    "residual": oracle.resample_residual,
    "ssp": oracle.resample_ssp,
    "killing": oracle.resample_killing,
}
"""Every resampling scheme, with the oracle's version of it."""


# --- representations of a program -------------------------------------------------------------------------------------


def pair(program: ppl.Program) -> ppl.Population:
    """Two particles."""
    return ppl.population(program, 2)


def waiting(program: ppl.Program) -> ppl.Suspended:
    """Two particles that wait before the first stage."""
    return ppl.hoist_first(ppl.spawn(2))(ppl.suspend(program))


def half_way(program: ppl.Program) -> ppl.Suspended:
    """Two particles that wait behind the first score."""
    return ppl.advance()(waiting(program))


def itself(program: ppl.Program) -> ppl.Program:
    """The program."""
    return program


TRANSFORMERS: dict[str, Transformer] = {
    "weighted": Transformer(lambda: ppl.weighted, itself, ppl.Program, ppl.Weighted),
    "population": Transformer(lambda: pair, itself, ppl.Program, ppl.Population, 2),
    "suspend": Transformer(lambda: ppl.suspend, itself, ppl.Program, ppl.Suspended),
    "traced": Transformer(lambda: ppl.Traced, itself, ppl.Program, ppl.Traced),
    "spawn": Transformer(lambda: ppl.spawn(2), ppl.weighted, ppl.Weighted, ppl.Population, 2),
    "spawn a population": Transformer(lambda: ppl.spawn(1), pair, ppl.Population, ppl.Population, 2),
    **{
        f"resample {scheme}": Transformer(lambda s=scheme: ppl.resample(s), pair, ppl.Population, ppl.Population, 2)
        for scheme in RESAMPLERS
    },
    "resample adaptively": Transformer(
        lambda: ppl.resample("systematic", 0.75), pair, ppl.Population, ppl.Population, 2
    ),
    "proper": Transformer(ppl.proper, pair, ppl.Population, ppl.Weighted),
    "push_evidence": Transformer(ppl.push_evidence, pair, ppl.Population, ppl.Population, 2),
    "advance": Transformer(ppl.advance, waiting, ppl.Suspended, ppl.Suspended, 2),
    "finish": Transformer(ppl.finish, half_way, ppl.Suspended, ppl.Population, 2),
    "hoist_first": Transformer(lambda: ppl.hoist_first(ppl.resample()), half_way, ppl.Suspended, ppl.Suspended, 2),
    "hoist": Transformer(lambda: ppl.hoist(ppl.push_evidence()), waiting, ppl.Suspended, ppl.Suspended, 2),
    "sweep": Transformer(lambda: ppl.sweep(ppl.resample("systematic", 0.75)), waiting, ppl.Suspended, ppl.Suspended, 2),
    "smc": Transformer(lambda: ppl.smc(2, 1, "stratified"), ppl.suspend, ppl.Suspended, ppl.Population, 2),
    "compose": Transformer(
        lambda: ppl.compose(ppl.proper(), ppl.resample("residual")), pair, ppl.Population, ppl.Weighted
    ),
}
"""Every public transformer, with the representations that it takes and gives."""


# --- distributions ----------------------------------------------------------------------------------------------------


def _log_weights() -> Any:
    return jnp.log(jnp.array([0.5, 2.0, 1.25]))


def _finite_measure() -> ppl.FiniteMeasure:
    values = {"a": jnp.array([3, 1, 3]), "v": jnp.array([[0.5, 1.0], [2.0, -1.0], [0.25, 0.0]])}
    return ppl.FiniteMeasure(_log_weights(), values)


def _table() -> Any:
    return jnp.array([[0.5, 0.125, 0.375], [0.25, 0.75, 0.0]])


DISTRIBUTIONS: dict[str, Distribution] = {
    "Bernoulli": Distribution(lambda: dist.Bernoulli(0.25), "BernoulliProbs"),
    "Bernoulli, certain": Distribution(lambda: dist.Bernoulli(jnp.array([1.0, 0.0, 0.25])), "BernoulliProbs"),
    "Bernoulli of logits": Distribution(lambda: dist.Bernoulli(logits=jnp.array(-0.75)), "BernoulliLogits"),
    "Categorical": Distribution(lambda: dist.Categorical(probs=_table()[0]), "CategoricalProbs"),
    "Categorical, batched": Distribution(lambda: dist.Categorical(probs=_table()), "CategoricalProbs"),
    "Categorical of logits": Distribution(lambda: dist.Categorical(logits=_log_weights()), "CategoricalLogits"),
    "Categorical, one event": Distribution(lambda: dist.Categorical(probs=_table()).to_event(1), "Independent"),
    "Categorical, expanded": Distribution(
        lambda: dist.Categorical(probs=_table()[0]).expand([2]), "ExpandedDistribution"
    ),
    "Binomial": Distribution(lambda: dist.Binomial(3, probs=0.375), "BinomialProbs"),
    "Binomial of logits": Distribution(lambda: dist.Binomial(3, logits=0.5), "BinomialLogits"),
    "BetaBinomial": Distribution(lambda: dist.BetaBinomial(2.0, 0.75, 3), "BetaBinomial"),
    "DiscreteUniform": Distribution(lambda: dist.DiscreteUniform(2, 5), "DiscreteUniform"),
    "OrderedLogistic": Distribution(
        lambda: dist.OrderedLogistic(jnp.array(0.5), jnp.array([-1.0, 0.75])), "OrderedLogistic"
    ),
    "Delta": Distribution(lambda: dist.Delta(jnp.array([2.0, -1.0])), "Delta"),
    "Delta, weighted": Distribution(lambda: dist.Delta(jnp.array(2.0), jnp.log(3.0)), "Delta", mass=3.0),
    "FiniteMeasure": Distribution(_finite_measure, "FiniteMeasure", mass=3.75),
    "FiniteMeasure, normalised": Distribution(lambda: _finite_measure().normalize(), "FiniteMeasure"),
    **{
        f"Ancestors {scheme}": Distribution(lambda s=scheme: Ancestors(_log_weights(), 2, s), "Ancestors")
        for scheme in (*RESAMPLERS, "metropolis 3")
    },
    **{
        f"ConditionalAncestors {scheme}": Distribution(
            lambda s=scheme: ConditionalAncestors(_log_weights(), 3, s), "ConditionalAncestors"
        )
        for scheme in CONDITIONAL
    },
    "Scaled": Distribution(lambda: dist.Scaled(dist.Bernoulli(0.25), 2.0), "Scaled", mass=0.25**2 + 0.75**2),
    "RandomSubset": Distribution(lambda: dist.RandomSubset(5, 2), "RandomSubset", finite=False),
    "Seed": Distribution(dist.Seed, "Seed", finite=False),
}
"""Every distribution of ours, and every one of NumPyro's that enumerates."""


# --- gradient strategies ----------------------------------------------------------------------------------------------


class GradientStrategy(NamedTuple):
    """A gradient strategy with a choice to try it on.

    Attributes:
        make: Makes the strategy.
        law: From a parameter to the distribution of the choice.
        covers: Its name in `vi.STRATEGIES`.
        grid: Points that carry the law of a choice that is not finite, evenly spaced; None where it is finite.
    """

    make: Callable[[], Any]
    law: Callable[[Any], Any]
    covers: str
    grid: Callable[[], Any] | None = None


def _coin(t: Any) -> Any:
    return dist.Bernoulli(logits=t - 0.25)


def _learning_coin(t: Any) -> Any:
    return vi.baseline(_coin(t), jnp.array(0.75))


def _normal(t: Any) -> Any:
    return dist.Normal(0.5 * t, jnp.exp(0.25 * t - 0.5))


def _line() -> Any:
    return jnp.linspace(-8.0, 8.0, 2001)


STRATEGIES: dict[str, GradientStrategy] = {
    "score": GradientStrategy(lambda: vi.score(1.25), _coin, "score"),
    "score, moving average": GradientStrategy(lambda: vi.score(vi.moving_average(0.5)), _coin, "score"),
    "score, leave one out": GradientStrategy(lambda: vi.score(vi.leave_one_out(), copies=2), _coin, "score"),
    "score, learned": GradientStrategy(vi.score, _learning_coin, "score"),
    "enumerate": GradientStrategy(vi.enumerate, _coin, "enumerate"),
    "measure_valued": GradientStrategy(vi.measure_valued, _coin, "measure_valued"),
    "reparam, normal": GradientStrategy(vi.reparam, _normal, "reparam", _line),
    "score, normal": GradientStrategy(lambda: vi.score(0.5), _normal, "score", _line),
    "leave one out, normal": GradientStrategy(lambda: vi.score(vi.leave_one_out(), copies=3), _normal, "score", _line),
    "measure_valued, normal": GradientStrategy(vi.measure_valued, _normal, "measure_valued", _line),
    "measure_valued, poisson": GradientStrategy(
        vi.measure_valued, lambda t: dist.Poisson(jnp.exp(0.5 * t)), "measure_valued", lambda: jnp.arange(40)
    ),
    "implicit, gamma": GradientStrategy(
        vi.implicit,
        lambda t: dist.Gamma(3.0 + t, 2.0),
        "implicit",
        lambda: jnp.linspace(1e-6, 20.0, 4001),
    ),
}
"""Every gradient strategy; a line here and the universal law 40 runs over it, alone and beside every other one."""
