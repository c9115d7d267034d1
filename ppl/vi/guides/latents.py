"""The latent choices of a program as a guide needs them: the continuous ones as a vector, the finite ones beside it.

    push(u) = (choices x(u), log |det dx / du|),    pull(x) = (u, log |det dx / du|),    u in R^n

x(u) is the bijection of `ppl.unconstrained`; a support may depend on earlier choices, finite ones included. Random
subsets (`ppl.plate(..., subsample_size=)`) are no part of it: no support depends on them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from ppl.distributions.finite import outcomes
from ppl.distributions.subset import RandomSubset
from ppl.errors import MeasureError
from ppl.inference.flat import Slot, Structure, taken_apart
from ppl.semantics import choices as ch
from ppl.semantics.handlers import Scoring
from ppl.semantics.marginal import Marginal
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices, Handler, Outcome, Position, SampleSite
from ppl.semantics.site import SiteInfo
from ppl.semantics.unconstrained import pulled_back


class Layout(NamedTuple):
    """What a program's latent choices are, by address.

    Attributes:
        slots: The continuous ones, with their places in the vector.
        finite: The number of outcomes, 0 to K - 1, of each element of the finite ones.
        subsets: The random subsets.
    """

    slots: tuple[Slot, ...]
    finite: dict[str, int]
    subsets: tuple[str, ...]

    @property
    def dim(self) -> int:
        """The length of the vector."""
        return sum(slot.size for slot in self.slots)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Latents:
    """The latent choices of a program, as a vector and finite values; a pytree.

    Attributes:
        program: The program; its latent choices are continuous or finite, and made in every run.
    """

    program: Program

    @property
    def layout(self) -> Layout:
        """What they are; cached by structure."""
        return _layout(Structure(self.program))

    def push(self, vector: Float[Array, "dim"], finite: Choices) -> tuple[Choices, Float[Array, ""]]:
        """The continuous choices, and the log Jacobian determinant (nats).

        Args:
            vector: A point of R^n.
            finite: The values of the finite choices.
        """
        return self._moved(_Move(to_support=True), self.free(vector), finite)

    def pull(self, choices: Choices, finite: Choices) -> tuple[Float[Array, "dim"], Float[Array, ""]]:
        """The vector of continuous choices (NaN outside a support), and the log Jacobian determinant there (nats)."""
        free, log_det = self._moved(_Move(to_support=False), choices, finite)
        parts = [jnp.reshape(free[slot.address], (-1,)) for slot in self.layout.slots]
        return (jnp.concatenate(parts) if parts else jnp.zeros(0, jnp.result_type(float))), log_det

    def log_density(self, vector: Float[Array, "dim"], finite: Choices) -> Float[Array, ""]:
        """Log density (nats) of the program in R^n, the Jacobian included, at the finite choices given."""
        choices, log_det = self.push(vector, finite)
        return self.program.log_density({**choices, **finite, **self.standing_in()}) + log_det

    def free(self, vector: Float[Array, "dim"]) -> Choices:
        """The continuous choices in R^n by address: the vector taken apart."""
        return taken_apart(self.layout.slots, vector)

    def standing_in(self) -> Choices:
        """The first members of each random subset, in its place."""
        infos = self.program.sites
        return {a: _counting(infos[a]) for a in self.layout.subsets}

    def _moved(self, handler: Handler, given: Choices, finite: Choices) -> tuple[Choices, Any]:
        staged = self.program.staged
        reads = ch.nest({**given, **finite, **self.standing_in()}, staged)
        result = self.program.run(handler, reads)[1]
        moved = ch.flatten(result.writes, staged, ("latent",))
        return {slot.address: moved[slot.address] for slot in self.layout.slots}, result.total


def _counting(info: SiteInfo) -> Array:
    """The first members, as a stand-in for a random subset."""
    return jnp.broadcast_to(jnp.arange(info.shape[-1], dtype=info.dtype), info.shape)


class _Move(Scoring):
    """Move continuous choices between R^n and their supports; the total is the log Jacobian determinant."""

    scores_given = True

    def __init__(self, *, to_support: bool) -> None:
        self.to_support = to_support

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Move the given value; the program goes on with the constrained one."""
        del where
        if node.observed is not None:
            return Outcome(node.observed, self.zero())
        if isinstance(node.measure, Marginal):
            moved, log_det = _through(node.measure, self, read)
            return Outcome(moved if self.to_support else read, log_det, moved)
        pullback = pulled_back(node)
        if pullback is None:
            return Outcome(read, self.zero(), read)
        transform = pullback.transform
        inside, free = (transform(read), read) if self.to_support else (read, transform.inv(read))
        log_det = jnp.sum(transform.log_abs_det_jacobian(free, inside)).astype(jnp.result_type(float))
        return Outcome(inside, log_det, inside if self.to_support else free)

    def factor(self, site: Any, log_weight: Any, where: Position) -> Outcome:
        """A factor has no Jacobian."""
        del site, log_weight, where
        return Outcome(None, self.zero())


# --- the layout -------------------------------------------------------------------------------------------------------


class _Look(Handler):
    """Find out what every latent choice is: fills `finite` and `subsets`; writes continuous values in R^n."""

    def __init__(self) -> None:
        self.finite: dict[str, int | None] = {}
        self.subsets: list[str] = []

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """Note one choice."""
        del where
        if node.observed is not None:
            return Outcome(node.observed, ())
        if isinstance(node.measure, Marginal):
            return self._marginal(node.measure, read)
        if all(jnp.issubdtype(aval.dtype, jnp.floating) for aval in node.signature.avals):
            pullback = pulled_back(node)
            return Outcome(read, (), read if pullback is None else pullback.transform.inv(read))
        if isinstance(node.measure, RandomSubset):
            self.subsets.append(node.address)
        else:
            self.finite[node.address] = _outcomes_from_zero(node.measure)
        return Outcome(read, (), read)

    def _marginal(self, measure: Marginal, read: Choices) -> Outcome:
        inner = _Look()
        moved = _through(measure, inner, read)[0]
        self.finite |= {address: size for address, size in inner.finite.items() if address in measure.kept}
        return Outcome(read, (), moved)


def _through(measure: Marginal, handler: Handler, read: Choices) -> tuple[Choices, Any]:
    """Run the program behind a marginal on its kept choices, the others zero; what it writes of the kept ones."""
    staged = measure.program.staged
    infos = ch.latent_infos(staged)
    others = {a: jnp.zeros(info.shape, info.dtype) for a, info in infos.items() if a not in measure.kept}
    result = measure.program.run(handler, ch.nest({**others, **read}, staged))[1]
    moved = ch.flatten(result.writes, staged, ("latent",))
    return {address: moved[address] for address in measure.kept}, result.total


def _outcomes_from_zero(measure: Any) -> int | None:
    """K where each element's outcomes are 0 to K - 1, K known while tracing."""
    support: Any = getattr(measure, "support", None)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    found = outcomes(measure)
    boolean = isinstance(support, type(constraints.boolean))
    interval = isinstance(support, constraints.integer_interval) and isinstance(support.lower_bound, int)
    if found is None or not (boolean or (interval and support.lower_bound == 0)):
        return None
    return found.log_probs.shape[0]


@lru_cache(maxsize=1024)
def _layout(structure: Structure) -> Layout:
    program, look, slots = structure.program, _Look(), []
    staged = program.staged
    ch.refuse_unbounded(staged, "guide")
    infos = ch.latent_infos(staged)

    def free(choices: Choices) -> Choices:
        return ch.flatten(program.run(look, ch.nest(choices, staged))[1].writes, staged, ("latent",))

    avals, start = jax.eval_shape(free, ch.values_like(staged, list(infos))), 0
    finite = {address: size for address, size in look.finite.items() if size is not None}
    _refuse_unsuitable(program.name, infos, [a for a in look.finite if a not in finite])
    for address in infos:
        if address not in finite and address not in look.subsets:
            slots.append(Slot(address, avals[address].shape, start))
            start += slots[-1].size
    return Layout(tuple(slots), {a: finite[a] for a in infos if a in finite}, tuple(look.subsets))


def _refuse_unsuitable(name: str, infos: dict[str, SiteInfo], endless: list[str]) -> None:
    masked = [a for a, info in infos.items() if info.masked]
    if endless:
        raise MeasureError(
            f"The choices {told(infos, endless)} of {name!r} are discrete, and their outcomes are not 0 to K - 1 with "
            "K known while tracing.\nExpected: continuous choices, and ones from Bernoulli, Categorical and the like.\n"
            "Fix: write the guide as a model, with a law of your own for them, or sum them out by hand."
        )
    if masked:
        raise MeasureError(
            f"The choices {told(infos, masked)} of {name!r} lie inside a branch, so that the number of choices "
            "varies.\nExpected: choices that every run makes.\n"
            "Fix: draw them outside the branch, or write the guide as a model with the same branch."
        )


def told(infos: dict[str, SiteInfo], addresses: Iterable[str]) -> str:
    """Addresses with their lines and distributions, for messages."""
    return ", ".join(f"{a!r} ({infos[a].source}, {infos[a].distribution})" for a in addresses)
