r"""`ppl.PMMH`: chains of PMMH whose states carry their estimate, with a proposal that is learnt in the warm-up.

The proposal is Normal in R^n with covariance $e^{2\ell} C$: C follows the covariance of the chain's parameters, and
$\ell$ the share of accepted steps, towards 0.234. While it is learnt, a new run renews the estimate before each step,
so that no chain is stuck at one that is too high by luck; that is another, biased kernel. After the warm-up the
proposal stays as it is and estimates are kept, so that the draws are exact in the limit of long chains.

Reference: Andrieu, Thoms, "A tutorial on adaptive MCMC", Statistics and Computing 18 (2008), algorithm 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

from ppl.inference.kernels import Kernel, State
from ppl.inference.mcmc import MCMC, STEPS
from ppl.inference.method import Settings, positive
from ppl.inference.pmmh import Estimate, PMMHMove, pmmh, pmmh_step, proposed
from ppl.inference.posterior import Posterior
from ppl.inference.static_parameters import Moved, Split, across, split_of
from ppl.semantics.language import sample
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

TARGET = 0.234
"""The share of steps to accept."""
PRIOR = 20.0
"""About how many steps the covariance at the start, the identity, counts for."""
LEAST = 1e-6
"""What is added to the variances, so that a chain that has not moved yet can."""


class Learnt(NamedTuple):
    """The proposal so far: steps made, the mean and covariance of the parameters in R^n, the log of the scale."""

    steps: Any
    mean: Any
    covariance: Any
    log_scale: Any


class Carried(NamedTuple):
    """What a state carries: its log evidence (nats), and the proposal."""

    log_evidence: Any
    learnt: Learnt


@dataclass(frozen=True)
class Adaptive:
    """PMMH whose proposal is learnt for a number of steps; states carry `Carried`."""

    move: PMMHMove
    steps: int

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        split = split_of(program, self.move.parameters, self.move.states)
        move = replace(self.move, parameters=split.parameters, states=split.states)
        return partial(_kernel, replace(self, move=move), program)

    def begin(self, program: Program, key: PRNGKey, state: State) -> State:
        """A run at the parameters of a state: where a chain starts."""
        split = split_of(program, self.move.parameters, self.move.states)
        return Program.of(_begun, (program, state, self.move, split)).sample(key)


def _begun(program: Program, state: State, move: PMMHMove, split: Split) -> State:
    found = proposed(program, state, move, split).state
    free = _vector(program, found.choices, split.parameters)
    size = jnp.log(jnp.asarray(getattr(move.propose, "step_size", 0.1), free.dtype))
    learnt = Learnt(jnp.int32(0), free, jnp.eye(free.size, dtype=free.dtype), jnp.broadcast_to(jnp.mean(size), ()))
    return found._replace(extra=Carried(found.extra.log_evidence, learnt))


def _kernel(maker: Adaptive, program: Program, state: State) -> Program:
    return Program.of(_step, (program, state, maker))


def _step(program: Program, state: State, maker: Adaptive) -> State:
    learnt, names = state.extra.learnt, maker.move.parameters or ()
    move = replace(maker.move, propose=partial(_propose, learnt)) if names else maker.move
    here = state._replace(extra=Estimate(state.extra.log_evidence))
    if maker.steps > 0:
        here = lax.cond(learnt.steps < maker.steps, partial(_renewed, program, maker.move), lambda s: s, here)
    new = pmmh_step(program, here, move)
    moved = jnp.any(jnp.stack([jnp.any(new.choices[a] != state.choices[a]) for a in names])) if names else jnp.bool_(0)
    later = _learn(learnt, _vector(program, new.choices, names), moved, maker.steps)
    return new._replace(extra=Carried(new.extra.log_evidence, later))


def _renewed(program: Program, move: PMMHMove, state: State) -> State:
    """The state with an estimate and a path of a new run at its parameters."""
    split = Split(move.parameters or (), move.states or ())
    return proposed(program, state, move, split, "renewed").state


def _propose(learnt: Learnt, program: Program, choices: dict[str, Any], names: tuple[str, ...]) -> Moved:
    """A Normal step in R^n with the covariance that was learnt."""
    free, volume = across(program, choices, names, to_support=False)
    dim = learnt.mean.size
    factor = jnp.linalg.cholesky(learnt.covariance + LEAST * jnp.eye(dim, dtype=learnt.mean.dtype))
    noise = sample("step", dist.Normal(jnp.zeros(dim, learnt.mean.dtype), 1.0))
    step, start = jnp.exp(learnt.log_scale) * factor @ noise, 0
    moved = dict(free)
    for name in names:
        size = jnp.size(free[name])
        moved[name] = free[name] + step[start : start + size].reshape(jnp.shape(free[name])).astype(free[name].dtype)
        start += size
    there, after = across(program, moved, names, to_support=True)
    return Moved(there, after - volume)


def _learn(learnt: Learnt, position: Any, moved: Any, steps: int) -> Learnt:
    """One step of stochastic approximation, of falling size; none after the warm-up.

    The covariance is learnt after a quarter of the warm-up only: before, the chain is on its way to where it belongs.
    """
    dtype, known = position.dtype, learnt.steps - steps // 4
    learning = learnt.steps < steps
    scale_rate = jnp.where(learning, (learnt.steps + 1.0) ** -0.6, 0.0).astype(dtype)
    rate = jnp.where(learning & (known >= 0), (jnp.maximum(known, 0) + PRIOR) ** -0.8, 0.0).astype(dtype)
    off = position - learnt.mean
    return Learnt(
        learnt.steps + 1,
        jnp.where(known < 0, position, learnt.mean + rate * off),
        learnt.covariance + rate * (off[:, None] * off[None, :] - learnt.covariance),
        learnt.log_scale + scale_rate * (moved - TARGET).astype(dtype),
    )


def _vector(program: Program, choices: dict[str, Any], names: tuple[str, ...]) -> Any:
    free = across(program, choices, names, to_support=False)[0]
    parts = [jnp.ravel(free[name]).astype(jnp.result_type(float)) for name in names]
    return jnp.concatenate(parts) if parts else jnp.zeros(0, jnp.result_type(float))


# --- the method -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PMMH:
    """Particle marginal Metropolis-Hastings: exact for the parameters of a program; particles integrate the states out.

    Args:
        particles: Number of particles. Hardly any step is accepted where the log evidence varies by more than 2.
        parameters: Addresses or patterns; by default the choices outside loops that observe or weigh.
        step_size: Of the first proposals, in R^n.
        adapt: Whether the warm-up learns the proposal's covariance and scale (continuous parameters only).
        states, scheme, threshold: See `ppl.inference.pmmh`.
        thin: Steps a draw.

    The draws hold the states too: a path of the run that was accepted. `stats` holds `accepted` and `log_density`, the
    log of p(theta) Z.

    Examples:
        >>> import jax, jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def walk(ys):
        ...     s = ppl.sample("s", dist.LogNormal(0.0, 1.0))
        ...     def step(x, y):
        ...         x = ppl.sample("x", dist.Normal(x, s))
        ...         ppl.sample("y", dist.Normal(x, 1.0), obs=y)
        ...         return x, None
        ...     return jax.lax.scan(step, jnp.float32(0.0), ys)[0]
        >>> program = walk(jnp.array([1.0, 2.0, 3.0]))
        >>> posterior = ppl.infer(program, PMMH(20, thin=5), key=0, warmup=200, draws=500)
        >>> posterior.draws["s"].shape, posterior.draws["x"].shape
        ((4, 500), (4, 500, 3))
    """

    particles: int = 100
    parameters: str | tuple[str, ...] | None = None
    step_size: float = 0.1
    adapt: bool = True
    states: str | Sequence[str] | None = None
    scheme: str = "systematic"
    threshold: float | None = 0.5
    thin: int = 1
    name: str = field(default="PMMH", repr=False)

    def __post_init__(self) -> None:
        positive("particles", self.particles)
        positive("thin", self.thin)

    @property
    def move(self) -> PMMHMove:
        """The kernel without adaptation."""
        return pmmh(
            self.particles,
            self.parameters,
            float(self.step_size),
            states=self.states,
            scheme=self.scheme,
            threshold=self.threshold,
        )

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Start from runs at prior draws, learn the proposal, run the chains."""
        thin = self.thin if settings.thin is None else settings.thin
        warmup = (STEPS if settings.warmup is None else settings.warmup) * thin
        names = split_of(program, self.move.parameters, self.move.states).parameters
        floats = all(jnp.issubdtype(program.sites[name].dtype, jnp.floating) for name in names)
        maker = Adaptive(self.move, warmup if floats and self.adapt else 0)
        return MCMC(maker, thin, self.name, jax.tree_util.Partial(maker.begin)).run(program, key, settings)
