r"""A program tempered by its data: only the first observations and factors count.

`up_to(program, t)` has the program's choices at the same addresses, and the density

$$\gamma_t(x) = p(x) \prod_{k < t} g_k(x),$$

p the law that the choices are drawn from and g_k the score of advance k (see `ppl.semantics.stages`: an observation, a
factor, or one step of a loop). `t` may be traced, so that a kernel for all partial posteriors is compiled once. Laws:
at `t = 0` it is the law of the draws; at the number of advances and beyond, the program. Later choices are still
there, with their law given the earlier ones. Chopin, *A sequential particle filter method for static models*,
Biometrika 89 (2002), calls the sequence of t "data tempering".
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import ArrayLike, Int

from ppl.distributions.drawn import law_of_draws
from ppl.semantics.jaxpr import factor_p
from ppl.semantics.measures import join
from ppl.semantics.program import Program
from ppl.semantics.protocol import Outcome, Position, SampleSite
from ppl.semantics.rewrites import Rewrite, bind_again, placed
from ppl.semantics.scoring import log_ratio, total_log_prob
from ppl.semantics.site import Site
from ppl.semantics.stages import Loop, Plan, plan_of


class Clock(NamedTuple):
    """The number of the advance at which a site is met: that of its stage, and in a loop one more each step."""

    starts: dict[str, int]
    loops: dict[str, Loop]

    def advance(self, address: str, where: Position) -> Any:
        """The number of the advance, traced inside a loop."""
        start = self.starts[address]
        if address not in self.loops:
            return jnp.int32(start)
        loop = self.loops[address].loop
        step = loop.length - 1 - where.loop[0] if loop.reverse else where.loop[0]
        return jnp.asarray(start + step, jnp.int32)


def clock_of(plan: Plan) -> Clock:
    """The clock of a program's stages."""
    pairs = list(zip(plan.stages, plan.starts, strict=True))
    starts = {address: start for stage, start in pairs for address in stage.addresses}
    loops = {address: stage for stage, _ in pairs if isinstance(stage, Loop) for address in stage.addresses}
    return Clock(starts, loops)


class Partial(Rewrite):
    """Scores of advances before `steps` become factors, later ones are one; choices have the law of their draws."""

    def __init__(self, clock: Clock, steps: Any) -> None:
        self.clock, self.steps = clock, steps

    def site(self, node: SampleSite, read: Any) -> Any:
        """Bind a choice."""
        del read
        return bind_again(node)

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """An observation is a factor; so is what a choice's density has beyond the law of its draws."""
        if node.observed is not None:
            self._weigh(node.site, total_log_prob(node.measure, node.observed), where)
            return Outcome(node.observed, ())
        law = law_of_draws(node.measure)
        value = self.site(node._replace(measure=law), read)
        if law is not node.measure:
            excess = node.site._replace(address=join(node.address, "excess"))
            self._weigh(excess, log_ratio(node.measure, law, value), where, of=node.address)
        return Outcome(value, ())

    def factor(self, site: Site, log_weight: Any, where: Position) -> Outcome:
        """A factor counts where its time has come."""
        self._weigh(site, log_weight, where)
        return Outcome(None, ())

    def _weigh(self, site: Site, log_weight: Any, where: Position, of: str | None = None) -> None:
        total = jnp.sum(log_weight).astype(jnp.result_type(float))
        counts = self.clock.advance(of or site.address, where) < self.steps
        factor_p.bind(jnp.where(counts, total, 0.0), site=placed(site._replace(kind="factor", plates=())))


def up_to(program: Program, steps: Int[ArrayLike, ""]) -> Program:
    """The program in which only the first `steps` advances count: its partial posterior.

    Args:
        program: The program.
        steps: How many of its advances count; a number or a traced integer. Each observation, factor and loop step is
            one, and so is what stands in front of a loop.

    Returns:
        A program over the same choices with the same value; what was observed is a factor.

    Examples:
        >>> import jax, jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def coins(ys):
        ...     p = ppl.sample("p", dist.Beta(1.0, 1.0))
        ...     jax.lax.scan(lambda _, y: (None, ppl.sample("y", dist.Bernoulli(p), obs=y)), None, ys)
        >>> first_two = up_to(coins(jnp.array([1, 1, 0, 0])), 1 + 2)
        >>> round(float(jnp.exp(first_two.log_density({"p": jnp.array(0.5)}))), 4)
        0.25
    """
    return Program.of(_partial, (program, jnp.asarray(steps, jnp.int32)))


def _partial(program: Program, steps: Any) -> Any:
    return program.rewrite(Partial(clock_of(plan_of(program)), steps))
