"""What an online filter does at a step, as programs: spawn, advance, forecast; and the sums that go on for ever."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from ppl.distributions.ancestors import Ancestors
from ppl.distributions.drawn import law_of_draws
from ppl.errors import MeasureError, ShapeError
from ppl.inference.drawing import Draw
from ppl.numerics.weights import effective_sample_size, log_sum_exp, nan_to_zero_weight
from ppl.semantics import choices as ch
from ppl.semantics import scope
from ppl.semantics.binding import bind_sample
from ppl.semantics.blocks import Transformer
from ppl.semantics.guided import guided
from ppl.semantics.interpreter import run
from ppl.semantics.lanes import vmap
from ppl.semantics.language import sample
from ppl.semantics.program import Program
from ppl.semantics.protocol import Outcome, Position, SampleSite
from ppl.semantics.representations import Particle, layer_of, weigh
from ppl.semantics.rewrites import Rewrite, placed
from ppl.semantics.site import Site
from ppl.typing import PRNGKey

Transition = Callable[..., Program]


class FilterState(NamedTuple):
    """Where an online filter stands: a pytree of arrays.

    Attributes:
        particles: Values of the state, with a leading axis of particles.
        log_weights: Their normalised log weights (nats).
        log_evidence: Log evidence of all observations so far (nats); minus infinity where all particles are lost.
        remainder: What the sum of the evidence has lost to rounding.
        ess: Kish's effective sample size of the weights.
        step: How many steps were made.
        key: The key of the whole run.
    """

    particles: Any
    log_weights: Float[Array, "particles"]
    log_evidence: Float[Array, ""]
    remainder: Float[Array, ""]
    ess: Float[Array, ""]
    step: Int32[Array, ""]
    key: PRNGKey


class Forecast(NamedTuple):
    """Draws of what comes next: states, and observations by address, each with leading axes (draws, steps)."""

    states: Any
    observations: dict[str, Any]


@dataclass(frozen=True)
class Guided:
    """A transition with its proposal."""

    transition: Transition
    proposal: Transition

    def __call__(self, state: Any, *inputs: Any) -> Program:
        """The guided program of one step."""
        return guided(self.transition(state, *inputs), self.proposal(state, *inputs))


# --- the program, as a batch and step by step -------------------------------------------------------------------------


def batch(initial: Program, inputs: tuple[Any, ...], move: Transition) -> Any:
    """The program of all steps: its choices are `initial/...` and `step/...`, its value is the last state."""

    def step(state: Any, now: tuple[Any, ...]) -> Any:
        after = sample("step", move(state, *now))
        _check_state(state, after)
        return after, None

    return lax.scan(step, sample("initial", initial), inputs)[0]


def _check_state(before: Any, after: Any) -> None:
    """Raise where the transition's value is no state."""
    old, new = (jax.tree.map(lambda x: f"{jnp.result_type(x)}{list(jnp.shape(x))}", x) for x in (before, after))
    if jax.tree.structure(old) != jax.tree.structure(new) or old != new:
        raise ShapeError(
            f"The value of the transition is {new}, the state before it {old}.\n"
            "Expected: the same, so that the next step can go on from it.\nFix: return the new state alone, in the "
            "dtypes of the initial program's value."
        )


def spawned(initial: Program, n: int) -> Particle:
    """Independent first states, each with weight 1/n."""
    particles = vmap(lambda: _weighed("initial", initial), axis_size=n)()
    return particles._replace(log_weight=particles.log_weight - jnp.log(n))


def advanced(
    particles: Particle, inputs: tuple[Any, ...], move: Transition, resampler: Transformer, prefix: str
) -> Particle:
    """Resample where it is time; then one transition of every particle."""
    n = particles.log_weight.shape[0]
    with scope.entered(scope.current()._replace(prefix=prefix)):
        particles = sample("transformer", resampler(layer_of(particles)).program)

    def one(particle: Particle) -> Particle:
        moved = _weighed("step", move(particle.value, *inputs))
        return Particle(moved.value, particle.log_weight + moved.log_weight)

    return vmap(one, axis_size=n)(particles)


def _weighed(address: str, program: Program) -> Particle:
    """A program's choices under an address, with its weight."""
    with scope.entered(scope.current()._replace(prefix=address)):
        return weigh(program)


class Futures(Rewrite):
    """Draw everything, observations too; writes the observations. What `forecast` runs the transition with."""

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """A latent choice, whatever the site was."""
        del read, where
        site = node.site._replace(kind="latent")
        value = bind_sample(placed(site), law_of_draws(node.measure))
        return Outcome(value, (), value if node.site.kind == "observed" else None)

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """A factor cannot be drawn from."""
        del log_weight, where
        raise MeasureError(
            f"A forecast came to the factor {site.address!r} at {site.source}.\nExpected: a transition of choices and "
            "observations: a factor is no law to be drawn from.\nFix: write it as an observation, or give the "
            "forecast a filter whose transition lacks it."
        )


def futures(particles: Particle, inputs: tuple[Any, ...], steps: int, draws: int, transition: Transition) -> Forecast:
    """Draws from the particles, each followed by its own future."""

    def one(state: Any, now: tuple[Any, ...]) -> Any:
        program = transition(state, *now)
        value, result = program.run(Futures())
        return value, ch.flatten(result.writes, program.staged, ("observed",))

    def step(states: Any, now: tuple[Any, ...]) -> Any:
        states, observed = vmap(one, in_axes=(0, None), axis_size=draws)(states, now)
        return states, (states, observed)

    picked = sample("start", Ancestors(particles.log_weight, draws, "systematic"))
    start = jax.tree.map(lambda x: x[picked], particles.value)
    _, found = lax.scan(step, start, inputs, length=steps)
    return Forecast(*jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), found))


# --- running them, and sums ------------------------------------------------------------------------------------------


def drawn(program: Program, key: PRNGKey, loop: tuple[Any, ...] = ()) -> Any:
    """Run a program of latent choices, with the random numbers of a place in a loop."""
    staged = program.staged
    result = run(staged.code, program.dynamic, Draw(key), {}, Position(loop=loop))
    return jax.tree.unflatten(staged.out_tree, [jnp.asarray(x) for x in result.outs])


def settled(particles: Particle, evidence: Any, remainder: Any, step: Any, key: PRNGKey) -> FilterState:
    """Weights normalised, their sum added to the evidence."""
    log_weights = nan_to_zero_weight(particles.log_weight)
    total = log_sum_exp(log_weights)
    added, lost = compensated(evidence, remainder, total)
    log_weights = log_weights - jnp.where(jnp.isfinite(total), total, 0.0)
    ess = effective_sample_size(log_weights)
    return FilterState(particles.value, log_weights, added, lost, ess, step, key)


def compensated(total: Any, remainder: Any, term: Any) -> tuple[Any, Any]:
    """One step of Kahan's sum: the new total, and what it lacks."""
    corrected = term + remainder
    new = total + corrected
    lost = corrected - (new - total)
    return new, jnp.where(jnp.isfinite(lost), lost, 0.0)
