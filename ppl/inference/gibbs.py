"""Gibbs sampling: choices drawn from their exact conditionals; `ppl.Gibbs()` picks a kernel for each choice.

The log density of a choice's block is computed at all outcomes; the draw is one `sample` site over them. Where the
elements of a site are independent given the rest (see `separable`) all of them are drawn at once, K evaluations for any
number of elements; else they are drawn in turn. Law: a draw from the conditional leaves the program's measure
invariant, and is in detailed balance with it; a systematic scan is invariant only.

Reference: Geman and Geman, "Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of images", IEEE
Transactions on Pattern Analysis and Machine Intelligence 6 (1984).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax

from ppl.distributions.finite import Outcomes, outcomes
from ppl.errors import NotFiniteError
from ppl.inference.entries import NotSeparable
from ppl.inference.gibbs_blocks import chosen_addresses, whole
from ppl.inference.kernels import Kernel, State
from ppl.inference.separable import Values, separate
from ppl.semantics import choices as ch
from ppl.semantics.handlers import Density
from ppl.semantics.language import deterministic, sample
from ppl.semantics.measures import join
from ppl.semantics.program import Program
from ppl.semantics.protocol import Handler, Outcome, Position, SampleSite
from ppl.semantics.slicing import block, has_lanes


@dataclass(frozen=True)
class GibbsKernel:
    """What `gibbs` makes."""

    addresses: tuple[str, ...] | None
    random_scan: bool

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        named = finite_addresses(program) if self.addresses is None else self.addresses
        addresses = chosen_addresses(program, named, "gibbs")
        for address in addresses:
            if not is_finite(program, address):
                raise _not_finite(program, address)
        return partial(_kernel, self.random_scan, addresses, program)


def gibbs(addresses: str | tuple[str, ...] | None = None, *, random_scan: bool = False) -> GibbsKernel:
    """A kernel that draws finite choices from their exact conditionals, by enumerating their outcomes.

    Args:
        addresses: The latent addresses; by default every finite choice outside branches.
        random_scan: Draw one element of one site, picked uniformly, instead of all of them in program order.

    Returns:
        A maker. Its kernel is invariant; in detailed balance with a random scan, and on one site whose elements are
        independent given the rest. It records `accepted`.

    Raises:
        NotFiniteError: a choice has no finite support.
        BranchError: a choice lies in a branch, or decides which choices are made.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> from ppl.inference.kernels import State
        >>> @ppl.model
        ... def coins():
        ...     with ppl.plate("n", 2):
        ...         return ppl.sample("x", dist.Bernoulli(0.25))
        >>> step = gibbs()(coins())(State({"x": jax.numpy.array([0, 1])}, {}))
        >>> step.sites["draw/x"].shape
        (2,)
    """
    return GibbsKernel((addresses,) if isinstance(addresses, str) else addresses and tuple(addresses), random_scan)


def _kernel(random_scan: bool, addresses: tuple[str, ...], program: Program, state: State) -> Program:  # noqa: FBT001
    return Program.of(random_step if random_scan else step, (program, state, addresses))


def step(program: Program, state: State, addresses: tuple[str, ...]) -> State:
    """A systematic scan: every site in turn."""
    choices = dict(state.choices)
    for address in addresses:
        choices[address] = drawn_site(program, address, choices)
    return _recorded(State(choices, state.masks))


def random_step(program: Program, state: State, addresses: tuple[str, ...]) -> State:
    """A random scan: one element of one site."""
    sizes = [math.prod(batch_of(program, address, state.choices)) for address in addresses]
    index = sample("pick", dist.Categorical(probs=jnp.full(sum(sizes), 1.0 / sum(sizes))))
    starts = np.cumsum([0, *sizes[:-1]])
    which = jnp.sum(index >= jnp.asarray(starts)) - 1

    def drawn(address: str, start: int, choices: dict[str, Any]) -> dict[str, Any]:
        return {**choices, address: drawn_element(program, address, choices, index - start)}

    moves = [partial(drawn, address, int(start)) for address, start in zip(addresses, starts, strict=True)]
    return _recorded(State(lax.switch(which, moves, state.choices), state.masks))


def _recorded(state: State) -> State:
    deterministic("accepted", jnp.ones((), bool))
    return state


# --- one site --------------------------------------------------------------------------------------------------------


def drawn_site(program: Program, address: str, choices: dict[str, Any]) -> Any:
    """A value of a finite site drawn from its conditional; one element after the other where they depend."""
    support = support_of(program, address, choices)
    try:
        log_weights = log_conditional(program, address, choices, support)
    except NotSeparable:
        return _drawn_in_turn(program, address, choices)
    index = sample(join("draw", address), dist.Categorical(logits=jnp.moveaxis(log_weights, 0, -1)))
    return _taken(support.values, index).astype(choices[address].dtype)


def log_conditional(program: Program, address: str, choices: dict[str, Any], support: "Support") -> Any:
    """Log density (up to a constant) of each outcome for every element, `(K, *batch)`, in nats.

    Raises:
        NotSeparable: the elements are not known to be independent given the rest.
    """
    sliced, density = block(program, address, choices), partial(_density, address)
    if math.prod(support.batch) == 1:
        found = jax.vmap(lambda value: density(value, sliced))(support.values)
        return found.reshape(-1, *support.batch)
    table = jax.vmap(lambda value: separate(density, value, (sliced,), Values(), support.batch).get("value", 0.0))
    return table(support.values)


def _density(address: str, value: Any, sliced: Program) -> Any:
    return whole(sliced, Density(), address, value)


def _taken(values: Any, index: Any) -> Any:
    """The outcome of each element that was picked."""
    batch = jnp.shape(index)
    flat = values.reshape(values.shape[0], math.prod(batch), *values.shape[1 + len(batch) :])
    picked = flat[jnp.reshape(index, (-1,)), jnp.arange(flat.shape[1])]
    return picked.reshape(*batch, *flat.shape[2:])


def _drawn_in_turn(program: Program, address: str, choices: dict[str, Any]) -> Any:
    size = math.prod(batch_of(program, address, choices))

    def one(value: Any, index: Any) -> tuple[Any, None]:
        return drawn_element(program, address, {**choices, address: value}, index), None

    return lax.scan(one, choices[address], jnp.arange(size))[0]


def drawn_element(program: Program, address: str, choices: dict[str, Any], index: Any) -> Any:
    """The site's value with one element (a flat index, may be traced) drawn from its conditional.

    An element that is a lane of its own is drawn in that lane alone; any other in the block of the whole site.
    """
    if has_lanes(program, address):
        info, entry = program.sites[address], program.staged.table[address]
        if len(info.shape) == 1 + entry.signature.event_rank:
            return _drawn_lane(program, address, choices, index)
    support, value = support_of(program, address, choices), choices[address]
    sliced, batch = block(program, address, choices), support.batch
    flat = value.reshape(math.prod(batch), *value.shape[len(batch) :])
    outcome_list = support.values.reshape(len(support.values), *flat.shape)[:, index].astype(value.dtype)

    def replaced(outcome: Any) -> Any:
        return flat.at[index].set(outcome).reshape(value.shape)

    log_weights = jax.vmap(lambda outcome: _density(address, replaced(outcome), sliced))(outcome_list)
    return replaced(outcome_list[sample(join("draw", address), dist.Categorical(logits=log_weights))])


def _drawn_lane(program: Program, address: str, choices: dict[str, Any], index: Any) -> Any:
    sliced, value = block(program, address, choices, index=index), choices[address]
    values = _support(sliced, address, value[0]).values.astype(value.dtype)
    log_weights = jax.vmap(lambda outcome: _density(address, outcome, sliced))(values)
    return value.at[index].set(values[sample(join("draw", address), dist.Categorical(logits=log_weights))])


# --- outcomes --------------------------------------------------------------------------------------------------------


class Support(NamedTuple):
    """All outcomes of a site: `values` of shape `(K, *batch, *event)`, and the shape of its elements."""

    values: Any
    batch: tuple[int, ...]


class ListOutcomes(Handler):
    """Writes the outcomes of the latent site that is given."""

    def sample(self, node: SampleSite, read: Any, where: Position) -> Outcome:
        """List the outcomes of a latent site."""
        del where
        if node.observed is not None:
            return Outcome(node.observed, ())
        found = outcomes(node.measure)
        return Outcome(read, (), found if found is not None else Outcomes((), ()))


def support_of(program: Program, address: str, choices: dict[str, Any]) -> Support:
    """The outcomes of a site given the other choices.

    Raises:
        NotFiniteError: it has no finite support of known size.
    """
    return _support(block(program, address, choices), address, choices[address])


def _support(sliced: Program, address: str, value: Any) -> Support:
    written = sliced.run(ListOutcomes(), {address: value})[1].writes[address]
    if isinstance(written.values, tuple):
        raise _not_finite(sliced, address)
    entry = sliced.staged.table[address]
    lead = jnp.ndim(value) - len(entry.signature.avals[0].shape)
    batch = (*written.log_probs.shape[:lead], *written.log_probs.shape[lead + 1 :])
    return Support(jnp.moveaxis(written.values, lead, 0), batch)


def batch_of(program: Program, address: str, choices: dict[str, Any]) -> tuple[int, ...]:
    """The shape of a finite site's elements."""
    found: list[tuple[int, ...]] = []
    jax.eval_shape(lambda p, c: found.append(support_of(p, address, c).batch), program, choices)
    return found[0]


def finite_addresses(program: Program) -> tuple[str, ...]:
    """The latent addresses whose measure lists its outcomes, in program order."""
    return tuple(address for address in ch.latent_infos(program.staged) if is_finite(program, address))


def is_finite(program: Program, address: str) -> bool:
    """Whether a choice has a finite support of known size."""
    if address not in program.staged.table or program.sites[address].unbounded:
        return False
    values = ch.values_like(program.staged, list(ch.latent_infos(program.staged)))
    try:
        jax.eval_shape(lambda p, c: support_of(p, address, c).values, program, values)
    except NotFiniteError:
        return False
    return True


def _not_finite(program: Program, address: str) -> NotFiniteError:
    info = program.sites[address]
    return NotFiniteError(
        f"The choice {address!r} ({info.source}) is a {info.distribution}, which does not list its outcomes.\n"
        "Expected: a choice with finitely many outcomes, their number known beforehand.\n"
        "Fix: ppl.inference.conjugate, slice_sampling or random_walk for it; ppl.Gibbs() chooses by itself."
    )
