"""`ppl.ParticleFilter`: bootstrap, guided and auxiliary particle filters, and what they know at each step.

    SMC . lookahead psi . guided q

It is `ppl.SMC` on a transformed program with the same measure: draws from the proposal, weights that look ahead. The
history then holds the filtering distributions p(x_t | y_1..y_t), with the lookahead taken out of their weights.
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num

from ppl.errors import AddressError
from ppl.inference.history import History
from ppl.inference.method import Settings, positive
from ppl.inference.posterior import Posterior
from ppl.inference.smc import SMC, Storage
from ppl.numerics.weighted_quantiles import weighted_quantiles
from ppl.semantics.blocks import resample
from ppl.semantics.guided import guided
from ppl.semantics.lookahead import ADDRESS, Potential, lookahead
from ppl.semantics.program import Program
from ppl.semantics.stages import Loop, plan_of
from ppl.typing import PRNGKey

POTENTIAL = f"{ADDRESS}/potential"


class Moments(NamedTuple):
    """Mean and standard deviation of a filtering distribution at each step."""

    mean: Float[np.ndarray, "steps ..."]
    sd: Float[np.ndarray, "steps ..."]


class Stretch(NamedTuple):
    """The advances of one loop: the first, how many, and whether it runs from the last input to the first."""

    first: int
    length: int
    reverse: bool


@dataclass(frozen=True)
class FilterHistory:
    """What a particle filter saw, advance by advance; steps of a loop are in the order of its inputs.

    Attributes:
        log_evidence: Log evidence of the observations so far (nats).
        ess: Kish's effective sample size before the next resampling (of the weights with lookahead).
        resampled: Whether particles changed places before the advance.
        nan_weights: Numbers of weights that were NaN and counted as zero.
        log_weights: Unnormalised log weights of the particles after each advance (nats), without lookahead; None where
            not stored.
        filtered: Choices and recorded values inside the program's loops, as drawn at each step. Empty where not stored.
        first, smoothed, trees: As in `ppl.inference.history.History`.
        stretches: Where in the run each address of `filtered` was made.
        first: Choices made before the first loop, of the particles that enter it.
    """

    log_evidence: Float[np.ndarray, "advances"]
    ess: Float[np.ndarray, "advances"]
    resampled: Bool[np.ndarray, "advances"]
    nan_weights: Any
    log_weights: Float[np.ndarray, "advances particles"] | None
    filtered: dict[str, Any]
    first: dict[str, Any]
    smoothed: dict[str, Any]
    trees: Any
    stretches: dict[str, Stretch]

    def weights(self, address: str) -> Float[np.ndarray, "steps particles"]:
        """Normalised weights of the particles at the steps that make a choice.

        Raises:
            AddressError: nothing is stored under the address.
        """
        if address not in self.stretches or self.log_weights is None:
            raise AddressError(
                f"No filtering distribution is stored for {address!r}.\n"
                f"Expected: one of {list(self.stretches)} (choices and recorded values inside the program's loops, "
                "outside branches), and store='filter'.\nFix: record what you want to see, for example "
                "ppl.deterministic('signal', x)."
            )
        first, length, reverse = self.stretches[address]
        rows = self.log_weights[first : first + length].astype(np.float64)
        weights = np.exp(rows - rows.max(axis=1, keepdims=True))
        return (weights / weights.sum(axis=1, keepdims=True))[:: -1 if reverse else 1]

    def moments(self, address: str) -> Moments:
        r"""Mean and standard deviation of $p(x_t \mid y_{1:t})$ at each step, where x is the value at an address."""
        weights, x = self.weights(address), np.asarray(self.filtered[address], np.float64)
        mean = np.einsum("tn,tn...->t...", weights, x)
        return Moments(mean, np.sqrt(np.einsum("tn,tn...->t...", weights, (x - mean[:, None]) ** 2)))

    def quantiles(
        self, address: str, probs: Num[np.ndarray, "probs"] | list[float] | tuple[float, ...]
    ) -> Num[np.ndarray, "probs steps ..."]:
        r"""Quantiles of $p(x_t \mid y_{1:t})$ at each step: the least particle up to which the weights sum to them."""
        return weighted_quantiles(np.asarray(self.filtered[address]), self.weights(address), np.asarray(probs))


@dataclass(frozen=True)
class ParticleFilter:
    r"""A particle filter: bootstrap by default, guided with a proposal, auxiliary with a lookahead.

    Args:
        particles: Number of particles.
        proposal: A program over some of the program's latent addresses from which they are drawn (`ppl.guided`).
        backward: The law of choices that only the proposal makes, given the program's (`ppl.guided`).
        lookahead: A function `(choices, step) -> log potential` of a step's choices (`ppl.lookahead`): resampling goes
            by weight times potential.
        resampling: The scheme: see `ppl.resample`.
        threshold: Resample where the effective sample size is below this fraction of the particles; None: always.
        store: `"filter"` (the default): particles and weights at every step, and paths; `"paths"`: every particle's
            choices from start to end; `"tree"`, `"lag"`, `"none"`: as in `ppl.SMC`.
        lag: How many steps smoothing looks ahead, for `store="lag"`.

    Examples:
        >>> import jax, jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def walk(ys):
        ...     def step(x, y):
        ...         x = ppl.sample("x", dist.Normal(x, 1.0))
        ...         ppl.sample("y", dist.Normal(x, 1.0), obs=y)
        ...         return x, None
        ...     jax.lax.scan(step, jnp.float32(0.0), ys)
        >>> posterior = ppl.infer(walk(jnp.array([1.0, 2.0])), ppl.ParticleFilter(4_000), key=0)
        >>> print(posterior.history.moments("x").mean.round(1))
        [0.5 1.4]
        >>> posterior.history.quantiles("x", [0.05, 0.95]).shape
        (2, 2)

    Reference:
        Gordon, Salmond, Smith (1993) for the bootstrap filter; Doucet, Godsill, Andrieu (2000) for proposals; Pitt and
        Shephard (1999) for the auxiliary filter.
    """

    particles: int = 1000
    proposal: Program | None = None
    backward: Program | None = None
    lookahead: Potential | None = None
    resampling: str = "systematic"
    threshold: float | None = 0.5
    store: Storage = "filter"
    lag: int = 10
    name: str = field(default="ParticleFilter", repr=False)

    def __post_init__(self) -> None:
        positive("particles", self.particles)
        resample(self.resampling, self.threshold)
        if self.backward is not None and self.proposal is None:
            raise ValueError("A backward program was given without a proposal.\nExpected: both, or neither.")
        if self.lookahead is not None and self.store == "lag":
            raise ValueError(
                "Fixed-lag moments are taken with the weights at hand, in which a lookahead still is: they would be "
                "biased.\nFix: another store ('paths', 'filter' or 'tree'), or no lookahead."
            )

    def transformed(self, program: Program) -> Program:
        """The program that is filtered: the same measure, drawn from the proposal and looking ahead."""
        if self.proposal is not None:
            program = guided(program, self.proposal, self.backward)
        return program if self.lookahead is None else lookahead(program, self.lookahead)

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Filter once."""
        filtered = self.transformed(program)
        method = SMC(self.particles, self.resampling, self.threshold, self.store, self.lag, name=self.name)
        found = method.run(filtered, key, settings)
        mine = {address: x for address, x in found.deterministic.items() if address != POTENTIAL}
        past = filter_history(filtered, found.history)
        return replace(found, program=program, deterministic=mine, history=past)


def filter_history(program: Program, past: History) -> FilterHistory:
    """The history of a filter from that of the sweep that it was."""
    places = stretches(program, past.filtered)
    log_weights = None if past.log_weights is None else np.asarray(past.log_weights)
    log_evidence = np.asarray(past.log_evidence)
    if log_weights is not None and POTENTIAL in places:
        first, length, reverse = places[POTENTIAL]
        potential = np.asarray(past.filtered[POTENTIAL])[:: -1 if reverse else 1]
        rows = slice(first, first + length)
        log_weights, log_evidence = log_weights.copy(), log_evidence.copy()
        log_weights[rows] -= np.where(np.isfinite(potential), potential, 0.0)
        log_evidence[rows] = np.logaddexp.reduce(log_weights[rows], axis=1)
    kept = {address: x for address, x in past.filtered.items() if address != POTENTIAL}
    places = {address: place for address, place in places.items() if address != POTENTIAL}
    return FilterHistory(
        log_evidence=log_evidence,
        ess=np.asarray(past.ess),
        resampled=np.asarray(past.resampled),
        nan_weights=past.nan_weights,
        log_weights=log_weights,
        filtered=kept,
        first=past.first,
        smoothed=past.smoothed,
        trees=past.trees,
        stretches=places,
    )


def stretches(program: Program, stored: dict[str, Any]) -> dict[str, Stretch]:
    """The loop of each stored address; those inside branches have no value at some steps and are left out."""
    plan, found = plan_of(program), {}
    for first, stage in zip(plan.starts, plan.stages, strict=True):
        if isinstance(stage, Loop):
            names = [i.address for a in stage.addresses for i in program.staged.table[a].infos if not i.masked]
            found.update({a: Stretch(first, stage.length, stage.loop.reverse) for a in names if a in stored})
    return {address: found[address] for address in stored if address in found}
