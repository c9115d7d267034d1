r"""Parallel tempering over any kernel: replicas at several temperatures, which move and swap.

`replicated(program, betas)` is the product over replicas k of prior(x_k) likelihood(x_k)^{beta_k}: its choices have a
leading axis of replicas. `tempered(maker)` is a kernel of such a program. A step moves every replica by its own kernel,
swaps the states of neighbours (0, 1), (2, 3), ..., moves again, and swaps (1, 2), (3, 4), ...; a pair is swapped with
probability $\min(1, e^{(\beta_i - \beta_j)(\ell_j - \ell_i)})$, l the log likelihoods. Law: it leaves the product
invariant, so that the replica with beta = 1 has the program's measure. Alternating pairs is what carries states from
the prior to the posterior in few steps (time of order n instead of n^2 for n replicas).

Reference: Syed, Bouchard-Cote, Deligiannidis, Doucet, "Non-reversible parallel tempering: a scalable highly parallel
MCMC scheme", JRSS B 84 (2022), algorithm 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer
from jaxtyping import Array, Float

from ppl.errors import MeasureError
from ppl.inference.kernels import Kernel, KernelMaker, State
from ppl.semantics import choices as ch
from ppl.semantics.handlers import Scoring
from ppl.semantics.jaxpr import factor_p
from ppl.semantics.lanes import vmap
from ppl.semantics.language import deterministic, sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Outcome, Position, SampleSite
from ppl.semantics.rewrites import Rewrite, bind_again, placed
from ppl.semantics.scoring import total_log_prob
from ppl.semantics.site import Site
from ppl.semantics.staging import merge

Ladder = Sequence[float] | Float[Array | np.ndarray, "replicas"]
"""Inverse temperatures by replica."""


class Swap(NamedTuple):
    """What is known of a pair of neighbours: inverse temperatures and log likelihoods (nats), of either."""

    beta: Any
    beta_next: Any
    log_likelihood: Any
    log_likelihood_next: Any


def metropolis(swap: Swap) -> Float[Array, "pairs"]:
    """The log acceptance ratio of exchanging the states of each pair."""
    return (swap.beta - swap.beta_next) * (swap.log_likelihood_next - swap.log_likelihood)


# --- the target ------------------------------------------------------------------------------------------------------


class Temper(Rewrite):
    """Observations and factors count for beta times their log; an impossible one stays impossible at beta = 0."""

    def __init__(self, beta: Any) -> None:
        self.beta = beta

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """An observation becomes a factor; choices, and those that are fixed, stay."""
        if node.site.kind != "observed":
            return super().sample(node, read, where)
        self._weigh(node.site._replace(kind="factor"), total_log_prob(node.measure, node.observed))
        return Outcome(node.observed, ())

    def site(self, node: SampleSite, read: Any) -> Any:
        """Bind a choice again."""
        del read
        return bind_again(node)

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """Scale the factor."""
        del where
        self._weigh(site, jnp.sum(log_weight))
        return Outcome(None, ())

    def _weigh(self, site: Site, log_weight: Any) -> None:
        impossible = log_weight == -jnp.inf
        scaled = self.beta * jnp.where(impossible, 0.0, log_weight)
        factor_p.bind(jnp.where(impossible, -jnp.inf, scaled), site=placed(site._replace(plates=())))


class LogLikelihood(Scoring):
    """The sum of observations and factors at given choices (nats): what is tempered."""

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Score an observation."""
        del where
        if node.site.kind == "observed":
            return Outcome(node.observed, total_log_prob(node.measure, node.observed))
        return Outcome(read if node.observed is None else node.observed, self.zero())


def log_likelihood(program: Program, choices: Choices) -> Float[Array, ""]:
    """The log weight of observations and factors (nats), without that of the choices."""
    return program.run(LogLikelihood(), ch.nest(choices, program.staged))[1].total


def tempered_program(program: Program, beta: Float[Array, ""] | float) -> Program:
    """The program with the measure prior times likelihood to the power of beta: observations and factors are scaled.

    Args:
        program: The program.
        beta: The inverse temperature, from 0 (the prior) to 1 (the program itself).

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def coin():
        ...     x = ppl.sample("x", dist.Bernoulli(0.25))
        ...     ppl.factor("f", 2.0 * x)
        >>> float(tempered_program(coin(), 0.5).terms({"x": jnp.array(1)}).factor["f"])
        1.0
    """
    return Program.of(_tempered, (program, jnp.asarray(beta, jnp.result_type(float))))


def _tempered(program: Program, beta: Any) -> Any:
    return program.rewrite(Temper(beta))


def replicated(program: Program, inverse_temperatures: Ladder) -> Program:
    """Independent tempered copies of a program: one for each inverse temperature, along a leading axis of its choices.

    Args:
        program: The program.
        inverse_temperatures: beta by replica. They are arguments of the result: other values need no compilation.

    Raises:
        ValueError: there are fewer than two, or they do not fall from 1, or lie below 0.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def coin():
        ...     x = ppl.sample("x", dist.Bernoulli(0.25))
        ...     ppl.factor("f", 2.0 * x)
        >>> replicated(coin(), (1.0, 0.5, 0.0)).sites["x"].shape
        (3,)
    """
    return Program.of(_replicas, (program, checked_ladder(inverse_temperatures)))


def checked_ladder(
    inverse_temperatures: Ladder,
) -> Float[Array, "replicas"]:
    """The inverse temperatures as an array.

    Raises:
        ValueError: there are fewer than two, or they do not fall from 1, or lie below 0.
    """
    betas = jnp.asarray(inverse_temperatures, jnp.result_type(float))
    if isinstance(betas, Tracer):
        return betas
    if betas.size < 2 or betas[0] != 1.0 or (betas[1:] >= betas[:-1]).any() or betas[-1] < 0.0:
        raise ValueError(
            f"inverse_temperatures are {betas.tolist()}.\n"
            "Expected: at least two numbers that fall from 1 (the program) towards 0 (its prior), such as "
            "(1.0, 0.5, 0.25, 0.0)."
        )
    return betas


def _replicas(program: Program, betas: Any) -> Any:
    return vmap(lambda beta: tempered_program(program, beta).rewrite(Rewrite()))(betas)


# --- the kernel ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tempered:
    """What `tempered` makes: a maker of kernels of replicated programs."""

    maker: KernelMaker

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a replicated program."""
        if program.function is not _replicas:
            raise MeasureError(
                f"The kernel `tempered(...)` was given the program {program.name!r}, which has no replicas.\n"
                "Expected: what ppl.inference.replicated(program, inverse_temperatures) returns.\n"
                "Fix: replicate the program, or use the method ppl.inference.ParallelTempering(kernel)."
            )
        return partial(_kernel, self, program)


def tempered(maker: KernelMaker) -> Tempered:
    """Parallel tempering with any kernel.

    Args:
        maker: Makes the kernel of one replica; it is given the tempered program.

    Returns:
        A maker of kernels of `replicated(program, inverse_temperatures)`. Each records what `maker` does under
        `first/` and `second/` with a leading axis of replicas, the probabilities `even/acceptance` and
        `odd/acceptance` and outcomes `even/swapped` and `odd/swapped` of the swaps by pair, and `accepted`, whether
        the first replica swapped.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl.inference import trace_mh_kernel
        >>> @ppl.model
        ... def coin():
        ...     x = ppl.sample("x", dist.Bernoulli(0.25))
        ...     ppl.factor("f", 2.0 * x)
        >>> kernel = tempered(trace_mh_kernel)(replicated(coin(), (1.0, 0.5)))
        >>> step = kernel(State({"x": jnp.array([0, 1])}, {}))
        >>> [a for a in step.sites if a.startswith("even")]
        ['even/swap', 'even/acceptance', 'even/swapped']
    """
    return Tempered(maker)


def _kernel(kernel: Tempered, program: Program, state: State) -> Program:
    return Program.of(step, (program, state, kernel.maker))


def step(program: Program, state: State, maker: KernelMaker, log_ratio: Callable[[Swap], Any] = metropolis) -> State:
    """The body of the kernel. Another `log_ratio` than `metropolis` is a wrong kernel, for tests."""
    (original, betas), _ = merge(program.dynamic, program.arguments)
    state = sample("first", Program.of(_move, (original, betas, state, maker)))
    state, swapped = sample("even", Program.of(_swap, (original, betas, state, 0, log_ratio)))
    state = sample("second", Program.of(_move, (original, betas, state, maker)))
    if len(betas) > 2:
        state, _ = sample("odd", Program.of(_swap, (original, betas, state, 1, log_ratio)))
    deterministic("accepted", swapped[0])
    return state


def _move(program: Program, betas: Any, state: State, maker: KernelMaker) -> State:
    """Every replica by its own kernel."""

    def one(beta: Any, state: State) -> State:
        return maker(tempered_program(program, beta))(state).rewrite(Rewrite())

    return vmap(one)(betas, state)


def _swap(program: Program, betas: Any, state: State, first: int, log_ratio: Callable[[Swap], Any]) -> Any:
    """Exchange the states of the pairs (first, first + 1), (first + 2, first + 3), ... or not."""
    scores = jax.vmap(partial(log_likelihood, program))(state.choices)
    left = jnp.arange(first, len(betas) - 1, 2)
    ratio = log_ratio(Swap(betas[left], betas[left + 1], scores[left], scores[left + 1]))
    acceptance = jnp.where(jnp.isnan(ratio), 0.0, jnp.exp(jnp.minimum(ratio, 0.0)))
    swapped = sample("swap", dist.Bernoulli(probs=acceptance)) == 1
    deterministic("acceptance", acceptance)
    deterministic("swapped", swapped)
    places = jnp.arange(len(betas))
    places = places.at[left].add(swapped.astype(places.dtype)).at[left + 1].add(-swapped.astype(places.dtype))
    return jax.tree.map(lambda x: x[places], state), swapped
