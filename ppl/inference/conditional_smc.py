"""Conditional SMC as a kernel: particles run beside the path at hand, which they may not lose, and one path is drawn.

Law: the program's measure is invariant, for any number of particles. Choices that come early hardly move where few
lines of particles survive to the end; ancestor sampling (on the way) and backward sampling (from the end) mend that.
The cost of either is the density of one step for each particle where the states of a loop are Markov, and that of
the rest of the program where they are not.

Reference: Andrieu, Doucet, Holenstein, "Particle Markov chain Monte Carlo methods", JRSS B 72 (2010), section 4.3;
Lindsten, Jordan, Schon, "Particle Gibbs with ancestor sampling", JMLR 15 (2014), algorithm 2.
"""

from dataclasses import dataclass
from functools import partial

from ppl.errors import MeasureError
from ppl.inference.backward_path import backward_path
from ppl.inference.kernels import Kernel, State
from ppl.inference.method import positive
from ppl.inference.particle_runs import one_path, run_of, share_changed, with_path
from ppl.semantics import choices as ch
from ppl.semantics.blocks import Transformer
from ppl.semantics.conditional_sweep import Backward, conditional_resample, conditional_sweep
from ppl.semantics.language import deterministic
from ppl.semantics.program import Program


@dataclass(frozen=True)
class ConditionalSMC:
    """What `conditional_smc` makes: the number of particles, the resampling, how the past is drawn anew."""

    particles: int
    resampling: Transformer
    backward: Backward = None

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        ch.refuse_unbounded(program.staged, "kernel")
        return partial(_kernel, self, program)


def conditional_smc(
    particles: int = 100,
    scheme: str = "systematic",
    backward: Backward = None,
    *,
    threshold: float | None = None,
) -> ConditionalSMC:
    """A whole SMC run that keeps the path at hand among its particles; the next state is one of its paths.

    Args:
        particles: Number of particles, the retained one included.
        scheme: Conditional resampling: `"multinomial"`, `"systematic"` or `"killing"`.
        backward: `"ancestor"`: the retained path is joined to new pasts on the way (ancestor sampling); `"sampling"`:
            the new path's ancestors are drawn anew from its end to its start (backward sampling).
        threshold: There for the error that says why it must be None.

    Records `renewed`, the share of the choices' elements that changed, and `log_evidence`, which is biased upwards: the
    run knows a path from the posterior.

    Raises:
        MeasureError: no conditional scheme of this name, or a threshold.

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
        >>> step = conditional_smc(10, backward="ancestor")(program)(State({"x": jnp.zeros(3)}, {}))
        >>> step.sample(0).choices["x"].shape
        (3,)
    """
    positive("particles", particles)
    if backward not in (None, "ancestor", "sampling"):
        raise ValueError(f"backward is {backward!r}.\nExpected: None, 'ancestor' or 'sampling'.")
    if threshold is not None:
        raise _adaptive(threshold)
    return ConditionalSMC(particles, conditional_resample(scheme), backward)


def _kernel(move: ConditionalSMC, program: Program, state: State) -> Program:
    return Program.of(conditional_step, (program, state, move))


def conditional_step(program: Program, state: State, move: ConditionalSMC) -> State:
    """The body of the kernel."""
    choices = ch.nest(state.choices, program.staged)
    ends = conditional_sweep(program, choices, move.particles, move.resampling, backward=move.backward)
    drawn = with_path(program, run_of(ends, "particles"), choices)
    new = (backward_path if move.backward == "sampling" else one_path)(program, drawn, "path")
    deterministic("log_evidence", drawn.writes["log_evidence"])
    deterministic("renewed", share_changed(state, new))
    return new


def _adaptive(threshold: float) -> MeasureError:
    return MeasureError(
        f"Conditional SMC was asked to resample only where the effective sample size is low (threshold={threshold}).\n"
        "Expected: threshold=None. Whether to resample is then part of what the retained path is conditioned on: "
        "decided without the retained particle, or with weights that forget it, the "
        "kernel no longer leaves the posterior "
        "invariant.\n"
        "Fix: leave it out; scheme='killing' resamples hardly at all where the weights are nearly equal."
    )
