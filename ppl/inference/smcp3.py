"""`ppl.SMCP3`: sequential Monte Carlo over a sequence of growing or changing programs.

    ... extend p_1 -> p_2 . move . resample . extend p_0 -> p_1 . move . resample . spawn n . traces p_0

Particles are traces. From program to program they are extended by a forward kernel and weighed with a backward one
(`ppl.inference.extension`); before each step they are resampled where they are few, and moved, if wished, by a kernel
that leaves the measure at hand invariant. Law: the last population stands for the last program.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl.errors import DegenerateWeightsError, LawViolation
from ppl.inference.combinators import repeat
from ppl.inference.drawing import draw
from ppl.inference.extension import Extension, extended
from ppl.inference.genealogy import log_evidence_error
from ppl.inference.involution_runs import described, replayed
from ppl.inference.kernels import KernelMaker
from ppl.inference.method import CHAIN_SETTINGS, Settings, positive, refuse
from ppl.inference.population import replayed as runs_at
from ppl.inference.posterior import Evidence, Posterior
from ppl.inference.smc import History
from ppl.numerics.weights import effective_sample_size, log_sum_exp, nan_to_zero_weight
from ppl.semantics import choices as ch
from ppl.semantics import scope
from ppl.semantics.blocks import Resample, resample
from ppl.semantics.lanes import vmap
from ppl.semantics.language import deterministic, sample
from ppl.semantics.program import Program
from ppl.semantics.representations import Particle, WeighAndWrite, Weighted, layer_of
from ppl.typing import PRNGKey


def traces(program: Program) -> Weighted:
    """The weighted sampler of a program's choices, as a dict by address."""
    return Weighted(Program.of(_trace, (program,)))


def _trace(program: Program) -> Particle:
    _, result = program.run(WeighAndWrite())
    return Particle(ch.flatten(result.writes, program.staged, ("latent",)), result.total)


@dataclass(frozen=True)
class Stages:
    """The static part of the algorithm."""

    extensions: tuple[Extension, ...]
    particles: int
    before: Resample
    kernel: KernelMaker | None = None


def grown(programs: tuple[Program, ...], how: Stages) -> Particle:
    """The algorithm as a model; its value is the last population of traces."""
    n = how.particles
    particles = vmap(lambda: sample("start", traces(programs[0]).program), axis_size=n)()
    particles = Particle((particles.value, jnp.arange(n, dtype=jnp.int32)), particles.log_weight - jnp.log(n))
    for number, (old, new) in enumerate(zip(programs, programs[1:], strict=False)):
        with scope.under(f"program {number}"):
            particles = _resampled(_recorded(particles), how)
            particles = _moved(old, particles, how)
            particles = _extended(old, new, particles, how.extensions[number])
    with scope.under(f"program {len(programs) - 1}"):
        particles = _recorded(particles)
    deterministic("eve", particles.value[1])
    return Particle(particles.value[0], particles.log_weight)


def _recorded(particles: Particle) -> Particle:
    log_weight = nan_to_zero_weight(particles.log_weight)
    deterministic("log_evidence", log_sum_exp(log_weight))
    deterministic("ess", effective_sample_size(log_weight))
    deterministic("nan_weights", jnp.sum(jnp.isnan(particles.log_weight), dtype=jnp.int32))
    return particles._replace(log_weight=log_weight)


def _resampled(particles: Particle, how: Stages) -> Particle:
    before = particles.log_weight
    particles = sample("resample", how.before(layer_of(particles)).program)
    deterministic("resampled", jnp.any(before != particles.log_weight))
    return particles


def _moved(program: Program, particles: Particle, how: Stages) -> Particle:
    """Move every trace by the kernel, which leaves the program's measure invariant."""
    if how.kernel is None:
        return particles
    kernel = how.kernel(program)

    def one(choices: Any) -> Any:
        return sample("move", kernel(replayed(program, choices).state)).choices

    choices, eve = particles.value
    return particles._replace(value=(vmap(one)(choices), eve))


def _extended(old: Program, new: Program, particles: Particle, extension: Extension) -> Particle:
    choices, eve = particles.value

    def one(choices: Any) -> Any:
        return extended(old, new, choices, extension)

    found = vmap(one, axis_size=len(eve))(choices)
    alive = particles.log_weight > -jnp.inf
    deterministic("astray", jnp.sum(alive & ~found.returned, dtype=jnp.int32))
    return Particle((found.choices, eve), particles.log_weight + found.log_ratio)


@dataclass(frozen=True, eq=False)
class SMCP3:
    """Sequential Monte Carlo over a sequence of programs that ends in the one given to `ppl.infer`.

    Args:
        programs: The programs before it, the first to be drawn from, in turn.
        forward: From the choices of a program to a program of auxiliary choices, one for each step or one for all.
            Without `backward` it draws the choices that only the next program has, at their addresses.
        backward: From the choices of the next program to the program that leads back, one for each step or one for all.
        particles: Number of particles.
        resampling: The scheme: see `ppl.resample`.
        threshold: Resample where the effective sample size is below this fraction; None: always.
        kernel: A maker of kernels that move the particles after each resampling; hashable. None: no moves.
        moves: How often each particle is moved.

    The compiled code has all programs one behind the other: meant for tens of programs, not thousands.

    Examples:
        >>> import jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def line(x, y):
        ...     slope = ppl.sample("slope", dist.Normal(0.0, 2.0))
        ...     ppl.sample("y", dist.Normal(slope * x, 1.0), obs=y)
        >>> @ppl.model
        ... def bent(x, y):
        ...     slope, bend = ppl.sample("slope", dist.Normal(0.0, 2.0)), ppl.sample("bend", dist.Normal(0.0, 0.5))
        ...     ppl.sample("y", dist.Normal(slope * x + bend * x**2, 1.0), obs=y)
        >>> @ppl.model
        ... def add_bend(choices):
        ...     ppl.sample("bend", dist.Normal(0.0, 0.5))
        >>> x, y = jnp.arange(4.0), jnp.array([0.1, 1.3, 2.9, 5.2])
        >>> method = ppl.SMCP3([line(x, y)], add_bend, particles=200)
        >>> sorted(ppl.infer(bent(x, y), method, key=0).draws)
        ['bend', 'slope']
    """

    programs: Sequence[Program]
    forward: Any
    backward: Any = None
    particles: int = 1000
    resampling: str = "systematic"
    threshold: float | None = 0.5
    kernel: KernelMaker | None = None
    moves: int = 1
    name: str = field(default="SMCP3", repr=False)

    def __post_init__(self) -> None:
        positive("particles", self.particles)
        positive("moves", self.moves)
        resample(self.resampling, self.threshold)
        if not self.programs or not all(isinstance(program, Program) for program in self.programs):
            raise TypeError(
                f"programs is {self.programs!r}.\nExpected: the programs before the target, at least one; call the "
                "models with their arguments."
            )

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Go through the programs."""
        refuse(settings, CHAIN_SETTINGS, "ppl.SMCP3", "Give it the number: ppl.SMCP3(..., particles=1000).")
        programs = (*self.programs, program)
        found = jax.device_get(_run(programs, key, self._stages(len(self.programs))))
        self._refuse(programs, found)
        runs = jax.tree.map(lambda x: np.asarray(x)[None], runs_at(program, found["choices"], self.particles))
        return Posterior(
            draws=runs.choices,
            masks=runs.masks,
            values=runs.value,
            deterministic=runs.deterministic,
            log_weights=found["log_weights"][None],
            log_evidence=Evidence(float(found["log_evidence"]), float(found["error"])),
            diagnostics={"ess": float(found["history"].ess[-1]), "least_ess": float(found["history"].ess.min())},
            program=program,
            method=self.name,
            history=found["history"],
        )

    def _stages(self, steps: int) -> Stages:
        forward, backward = _for_each(self.forward, steps, "forward"), _for_each(self.backward, steps, "backward")
        extensions = tuple(Extension(f, b) for f, b in zip(forward, backward, strict=True))
        kernel = self.kernel if self.kernel is None or self.moves == 1 else repeat(self.kernel, self.moves)
        return Stages(extensions, self.particles, Resample(self.resampling, self.threshold), kernel)

    def _refuse(self, programs: tuple[Program, ...], found: dict[str, Any]) -> None:
        astray = np.atleast_1d(found["astray"])
        if astray.any():
            step = int(np.argmax(astray > 0))
            extension = self._stages(len(self.programs)).extensions[step]
            raise LawViolation(
                f"From {programs[step].name!r} to {programs[step + 1].name!r}, {astray[step]} of {self.particles} "
                f"particles were not led back to their start by {described(extension.backward)}.\n"
                "Expected: the backward program, at the backward choices, returns the old choices and the forward ones."
            )
        if not found["log_evidence"] > -np.inf:
            dead = int(np.argmax(np.isneginf(found["history"].log_evidence)))
            raise DegenerateWeightsError(
                f"None of the {self.particles} particles has a positive weight from {programs[dead].name!r} (program "
                f"{dead} of {len(programs)}) on.\n"
                "Fix: more particles, a forward kernel that stays where the next program has mass, or programs nearer "
                "to each other."
            )


def _for_each(kernels: Any, steps: int, name: str) -> tuple[Any, ...]:
    """One kernel a step."""
    if kernels is None or callable(kernels):
        return (kernels,) * steps
    if len(kernels) != steps:
        raise ValueError(f"{name} has {len(kernels)} kernels.\nExpected: one, or one for each of the {steps} steps.")
    return tuple(kernels)


@partial(jax.jit, static_argnums=2)
def _run(programs: tuple[Program, ...], key: PRNGKey, how: Stages) -> dict[str, Any]:
    drawn = draw(Program.of(grown, (programs, how)), key)
    steps = len(programs) - 1

    def recorded(name: str, count: int) -> Any:
        return jnp.stack([drawn.writes[f"program {i}/{name}"] for i in range(count)])

    resampled = recorded("resampled", steps)
    eve, scheme = drawn.writes["eve"], how.before.scheme
    log_evidence, error = log_evidence_error(drawn.value.log_weight, eve, resampled, scheme)
    return {
        "choices": drawn.value.value,
        "log_weights": drawn.value.log_weight,
        "log_evidence": log_evidence,
        "error": error,
        "astray": recorded("astray", steps),
        "history": History(
            recorded("log_evidence", steps + 1),
            recorded("ess", steps + 1),
            jnp.concatenate([jnp.zeros(1, bool), resampled]),
            recorded("nan_weights", steps + 1),
            None,
            {},
        ),
    }
