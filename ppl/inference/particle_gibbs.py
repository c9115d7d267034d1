"""Particle Gibbs: conditional SMC for the states given the parameters, and kernels for the parameters given the states.

    K = K_states K_parameters

Law: the program's measure is invariant, for any number of particles. With ancestor or backward sampling a few dozen
particles move paths of thousands of steps; without it, particles must grow in proportion to the number of steps.

Reference: Andrieu, Doucet, Holenstein, "Particle Markov chain Monte Carlo methods", JRSS B 72 (2010), section 2.4.3;
Lindsten, Jordan, Schon, "Particle Gibbs with ancestor sampling", JMLR 15 (2014).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ppl.inference.combinators import cycle, on
from ppl.inference.conditional_smc import conditional_smc
from ppl.inference.gibbs_method import plan_of_choices
from ppl.inference.kernels import Kernel, KernelMaker
from ppl.inference.mcmc import MCMC
from ppl.inference.method import Settings, positive
from ppl.inference.posterior import Posterior
from ppl.inference.static_parameters import split_of
from ppl.semantics import choices as ch
from ppl.semantics.conditional_sweep import Backward
from ppl.semantics.program import Program
from ppl.semantics.stages import Loop, plan_of
from ppl.typing import PRNGKey


@dataclass(frozen=True)
class ParticleGibbsMove:
    """What `particle_gibbs` makes."""

    states_kernel: KernelMaker
    parameters_kernel: KernelMaker | None
    states: tuple[str, ...] | None

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program.

        Raises:
            AddressError, MeasureError: states that are not there, or cannot be moved with the other choices fixed.
        """
        ch.refuse_unbounded(program.staged, "kernel")
        if self.states is None and not _in_loops(program):
            return self.states_kernel(program)
        split = split_of(program, None, self.states)
        if not split.parameters:
            return self.states_kernel(program)
        given = self.parameters_kernel
        moved = plan_of_choices(program, split.parameters).maker if given is None else on(split.parameters, given)
        return cycle(on(split.states, self.states_kernel), moved)(program)


def _in_loops(program: Program) -> bool:
    """Whether some choices are inside loops that observe or weigh."""
    latent = ch.latent_infos(program.staged)
    return any(latent.keys() & stage.addresses for stage in plan_of(program).stages if isinstance(stage, Loop))


def particle_gibbs(
    particles: int = 100,
    parameters: KernelMaker | None = None,
    states: str | Sequence[str] | None = None,
    *,
    backward: Backward = "ancestor",
    scheme: str = "systematic",
) -> ParticleGibbsMove:
    """States by conditional SMC, then the other choices by a kernel of their own.

    Args:
        particles: Number of particles.
        parameters: Makes the kernel of all choices that are no states, given the states; by default, as `ppl.Gibbs()`
            does it: exactly where a choice is conjugate or finite, by slice sampling else.
        states: Addresses or patterns; by default the choices inside loops that observe or weigh, and all choices of a
            program without such loops.
        backward: How the retained path gets new pasts: `"ancestor"` sampling, backward `"sampling"`, or not (None).
        scheme: `"multinomial"`, `"systematic"` or `"killing"`.

    Records, where there are parameters, `0/renewed` and `0/log_evidence` of the states, and `1/...` of the parameters.

    Examples:
        >>> import jax, jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> from ppl.inference import State
        >>> @ppl.model
        ... def walk(ys):
        ...     s = ppl.sample("s", dist.LogNormal(0.0, 1.0))
        ...     def step(x, y):
        ...         x = ppl.sample("x", dist.Normal(x, s))
        ...         ppl.sample("y", dist.Normal(x, 1.0), obs=y)
        ...         return x, None
        ...     return jax.lax.scan(step, jnp.float32(0.0), ys)[0]
        >>> program = walk(jnp.array([1.0, 2.0, 3.0]))
        >>> step = particle_gibbs(10)(program)(State({"s": jnp.array(1.0), "x": jnp.ones(3)}, {}))
        >>> {a: x.shape for a, x in step.sample(0).choices.items()}
        {'s': (), 'x': (3,)}
    """
    names = states if states is None else (states,) if isinstance(states, str) else tuple(states)
    move = conditional_smc(particles, scheme, backward)
    return ParticleGibbsMove(move, parameters, names)


@dataclass(frozen=True)
class ParticleGibbs:
    """Particle Gibbs with ancestor or backward sampling, for programs with many states in a row and some parameters.

    Args:
        particles, parameters, states, backward, scheme: See `ppl.inference.particle_gibbs`.
        thin: Steps a draw.

    Starts are prior draws. `stats["0/renewed"]` tells the share of the states' elements that a step changed (`renewed`,
    where there are no parameters): near zero, the particles do not move the path.

    Examples:
        >>> import jax, jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def walk(ys):
        ...     def step(x, y):
        ...         x = ppl.sample("x", dist.Normal(x, 1.0))
        ...         ppl.sample("y", dist.Normal(x, 1.0), obs=y)
        ...         return x, None
        ...     return jax.lax.scan(step, jnp.float32(0.0), ys)[0]
        >>> program = walk(jnp.array([1.0, 2.0, 3.0]))
        >>> posterior = ppl.infer(program, ParticleGibbs(20), key=0, warmup=50, draws=200)
        >>> posterior.draws["x"].shape
        (4, 200, 3)
    """

    particles: int = 100
    parameters: KernelMaker | None = None
    states: str | tuple[str, ...] | None = None
    backward: Backward = "ancestor"
    scheme: str = "systematic"
    thin: int = 1
    name: str = field(default="ParticleGibbs", repr=False)

    def __post_init__(self) -> None:
        positive("particles", self.particles)
        positive("thin", self.thin)

    @property
    def kernel(self) -> ParticleGibbsMove:
        """Makes the kernel of a program."""
        return particle_gibbs(
            self.particles,
            self.parameters,
            self.states,
            backward=self.backward,
            scheme=self.scheme,
        )

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Start from the prior, run the chains, throw the warm-up away."""
        return MCMC(self.kernel, self.thin, self.name).run(program, key, settings)
