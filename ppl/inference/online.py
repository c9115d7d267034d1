"""`ppl.OnlineFilter`: a particle filter that is fed one observation at a time.

    step = nan to zero . advance (transition) . resample . state

Law: after T steps it has done what `ppl.SMC` does on the batch program (`OnlineFilter.program`), by the same
blocks and, key by key, with the same random numbers. The evidence is summed with a compensation and the weights are
normalised after every step, so that neither loses digits however long it runs.
"""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl.errors import FileFormatError
from ppl.inference import storage
from ppl.inference.method import positive
from ppl.inference.online_steps import (
    FilterState,
    Forecast,
    Guided,
    Transition,
    advanced,
    batch,
    drawn,
    futures,
    settled,
    spawned,
)
from ppl.semantics.blocks import resample
from ppl.semantics.keys import as_key
from ppl.semantics.program import Program
from ppl.semantics.representations import Particle
from ppl.semantics.stages import Loop, plan_of
from ppl.typing import PRNGKey

KIND = "filter state"


@dataclass(frozen=True)
class OnlineFilter:
    """A particle filter over a process that goes on.

    Args:
        initial: The program of the first state (its value); it may observe.
        transition: A function `(state, *inputs) -> Program` whose value is the next state and which observes what came
            with the step. Missing observations: `distribution.mask(present)`, with `present` among the inputs.
        particles: Number of particles.
        proposal: A function of the same arguments whose programs propose the transition's choices (`ppl.guided`).
        resampling: The scheme: see `ppl.resample`.
        threshold: Resample where the effective sample size is below this fraction of the particles; None: always.

    Examples:
        >>> import jax, jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def start():
        ...     return ppl.sample("x", dist.Normal(0.0, 1.0))
        >>> @ppl.model
        ... def move(x, y):
        ...     x = ppl.sample("x", dist.Normal(x, 1.0))
        ...     ppl.sample("y", dist.Normal(x, 1.0), obs=y)
        ...     return x
        >>> online = ppl.OnlineFilter(start(), move, particles=500)
        >>> state = online.init(0)
        >>> for y in (1.0, 2.0):
        ...     state = online.step(state, jnp.float32(y))
        >>> int(state.step), state.particles.shape
        (2, (500,))
        >>> online.forecast(state, 3, 1, jnp.zeros(3)).observations["y"].shape
        (500, 3)
    """

    initial: Program
    transition: Transition
    particles: int = 1000
    proposal: Transition | None = None
    resampling: str = "systematic"
    threshold: float | None = 0.5

    def __post_init__(self) -> None:
        positive("particles", self.particles)
        resample(self.resampling, self.threshold)

    def init(self, key: PRNGKey | int) -> FilterState:
        """The state before the first step.

        Args:
            key: A JAX key, or an int seed: that of the whole run.
        """
        return _init(self, as_key(key))

    def step(self, state: FilterState, *inputs: Any) -> FilterState:
        """Take in the inputs of one step; compiled once.

        Args:
            state: What `init` or the step before returned.
            inputs: The transition's further arguments: observations, covariates; of the same shapes at every step.
        """
        return _step(self, state, _arrays(inputs))

    def steps(self, state: FilterState, *inputs: Any) -> FilterState:
        """Take in many steps at once: inputs with a leading axis of steps."""
        return _steps(self, state, _arrays(inputs))

    def forecast(
        self, state: FilterState, steps: int, key: PRNGKey | int, *inputs: Any, draws: int | None = None
    ) -> Forecast:
        """Draw futures: states and observations of the next steps.

        Args:
            state: Where the filter stands.
            steps: How many steps.
            key: A key of their own.
            inputs: Those of `step`, with a leading axis of steps. The values observed there are ignored: every
                observation is drawn. (So let the transition go on with what `ppl.sample(..., obs=y)` returns, not with
                y.)
            draws: How many futures; as many as there are particles by default.

        Raises:
            ValueError: the inputs have another number of steps.
            MeasureError: the transition has a factor, which has no law to be drawn from.
        """
        positive("steps", steps)
        lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)}
        if lengths - {(steps,)}:
            raise ValueError(
                f"The inputs of the forecast have leading axes {sorted(lengths)}.\nExpected: {steps}, one entry a step."
            )
        draws = self.particles if draws is None else positive("draws", draws)
        return _forecast(self, state, steps, as_key(key), _arrays(inputs), draws)

    def program(self, *inputs: Any) -> Program:
        """The batch program over inputs with a leading axis of steps; its choices are `initial/...` and `step/...`."""
        return Program.of(batch, (self.initial, _arrays(inputs)), {"move": self.move})

    @property
    def move(self) -> Transition:
        """The transition, drawn from the proposal where there is one."""
        return self.transition if self.proposal is None else Guided(self.transition, self.proposal)

    def save(self, path: str | os.PathLike[str], state: FilterState) -> None:
        """Write a state to a file; `load` gives it back bit for bit.

        Raises:
            FileFormatError: the directory does not exist.
        """
        leaves = jax.tree.leaves(state)
        storage.write(path, KIND, {f"{i}": leaf for i, leaf in enumerate(leaves)}, {"leaves": _shapes(leaves)})

    def load(self, path: str | os.PathLike[str]) -> FilterState:
        """Read a state that `save` wrote.

        Raises:
            FileFormatError: the file is missing or damaged, or of a filter with other states.
        """
        arrays, record = storage.read(path, KIND)
        like = jax.eval_shape(lambda: _init(self, jax.random.key(0)))
        leaves, tree = jax.tree.flatten(like)
        if record["leaves"] != _shapes(leaves):
            raise FileFormatError(
                f"{os.fspath(path)!r} holds a filter's state with the arrays {record['leaves']}.\n"
                f"Expected: {_shapes(leaves)}, those of this filter.\nFix: load it with the filter that saved it."
            )
        return jax.tree.unflatten(tree, [arrays[f"{i}"] for i in range(len(leaves))])


def _arrays(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs as arrays, Python numbers too; what is one already costs nothing."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf), inputs)


def _shapes(leaves: list[Any]) -> list[str]:
    return [f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves]


@partial(jax.jit, static_argnums=0)
def _init(online: OnlineFilter, key: PRNGKey) -> FilterState:
    zero = jnp.zeros((), jnp.result_type(float))
    particles = drawn(Program.of(spawned, (online.initial,), {"n": online.particles}), key)
    return settled(particles, zero, zero, jnp.int32(0), key)


@partial(jax.jit, static_argnums=0)
def _step(online: OnlineFilter, state: FilterState, inputs: tuple[Any, ...]) -> FilterState:
    settings = {
        "move": online.move,
        "resampler": resample(online.resampling, online.threshold),
        "prefix": _loop_stage(online, inputs),
    }
    before = Particle(state.particles, state.log_weights)
    after = drawn(Program.of(advanced, (before, inputs), settings), state.key, (state.step,))
    return settled(after, state.log_evidence, state.remainder, state.step + 1, state.key)


@partial(jax.jit, static_argnums=0)
def _steps(online: OnlineFilter, state: FilterState, inputs: tuple[Any, ...]) -> FilterState:
    return lax.scan(lambda state, now: (_step(online, state, now), None), state, inputs)[0]


@partial(jax.jit, static_argnums=(0, 2, 5))
def _forecast(
    online: OnlineFilter, state: FilterState, steps: int, key: PRNGKey, inputs: tuple[Any, ...], draws: int
) -> Forecast:
    particles = Particle(state.particles, state.log_weights)
    settings = {"steps": steps, "draws": draws, "transition": online.transition}
    return drawn(Program.of(futures, (particles, inputs), settings), key)


def _loop_stage(online: OnlineFilter, inputs: tuple[Any, ...]) -> str:
    """The prefix of the loop's own random numbers in a sweep of the batch program."""
    stages = plan_of(online.program(*jax.tree.map(lambda x: x[None], inputs))).stages
    return f"stage {next(i for i, stage in enumerate(stages) if isinstance(stage, Loop))}"
