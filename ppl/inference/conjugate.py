"""Conjugate Gibbs: exact draws from conditionals that are Normal, Gamma, Beta or Dirichlet.

The density of the block at the choice is read as coefficients of x, x^2, log x and log(1 - x), element by element (see
`natural`). With the prior's class these are the parameters of the conditional:

    Normal     x: h, x^2: -p/2        Normal(h / p, 1 / sqrt(p))
    Gamma      log x: a - 1, x: -b    Gamma(a, b)
    Beta       log x: a - 1, log(1 - x): b - 1    Beta(a, b)
    Dirichlet  log x_k: a_k - 1       Dirichlet(a)

So any likelihood whose log density is made of these is recognised: means of Normals (through a x + b, indexing,
several sites, plates and lanes), rates of Poissons, exponentials and gammas (scaled by an exposure), probabilities of
coins, binomials and geometrics, of categoricals and multinomials. Nothing is guessed from numbers.

Reference: Gelman et al., *Bayesian Data Analysis*, third edition, sections 2.4 to 2.7 and 3.4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from ppl.errors import BranchError, MeasureError
from ppl.inference.entries import NotSeparable, Parts
from ppl.inference.gibbs_blocks import chosen_addresses, refuse_branches, whole
from ppl.inference.kernels import Kernel, State
from ppl.inference.natural import LOG, LOG1M, ONE, X2, Forms, Natural, X
from ppl.inference.separable import separate
from ppl.semantics import choices as ch
from ppl.semantics.language import deterministic, sample
from ppl.semantics.measures import join
from ppl.semantics.program import Program
from ppl.semantics.slicing import block


class Family(NamedTuple):
    """A conjugate family: the functions in its log density, and the law with given coefficients."""

    functions: tuple[str, ...]
    law: Callable[..., Any]


def _normal(linear: Any, quadratic: Any) -> Any:
    precision = -2.0 * quadratic
    return dist.Normal(linear / precision, 1.0 / jnp.sqrt(precision))


FAMILIES: dict[str, Family] = {
    "Normal": Family((X, X2), _normal),
    "Gamma": Family((LOG, X), lambda log, x: dist.Gamma(log + 1.0, -x)),
    "Exponential": Family((LOG, X), lambda log, x: dist.Gamma(log + 1.0, -x)),
    "Beta": Family((LOG, LOG1M), lambda log, log1m: dist.Beta(log + 1.0, log1m + 1.0)),
    "Dirichlet": Family((LOG,), lambda log: dist.Dirichlet(log + 1.0)),
}
"""By the class of the prior."""


@dataclass(frozen=True)
class Conjugate:
    """What `conjugate` makes."""

    addresses: tuple[str, ...] | None

    def __call__(self, program: Program) -> Kernel:
        """The kernel of a program."""
        addresses = self.addresses
        if addresses is None:
            addresses = tuple(a for a, i in program.sites.items() if i.kind == "latent" and is_conjugate(program, a))
        chosen_addresses(program, addresses, "conjugate")
        return partial(_kernel, addresses, program)


def conjugate(addresses: str | tuple[str, ...] | None = None) -> Conjugate:
    """A kernel that draws choices from their exact conditionals, one site after the other.

    Args:
        addresses: The latent addresses, each with a conjugate prior; by default all that are recognised.

    Returns:
        A maker. Its kernel is invariant; on one address it is in detailed balance. It records `accepted`.

    Raises:
        MeasureError: a choice's conditional is not recognised; the message says at which operation.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def counts(y):
        ...     rate = ppl.sample("rate", dist.Gamma(2.0, 1.0))
        ...     ppl.sample("y", dist.Poisson(3.0 * rate), obs=y)
        >>> law = conditional(counts(jax.numpy.array([4, 2])), "rate", {})
        >>> float(law.concentration), float(law.rate)
        (8.0, 7.0)
    """
    return Conjugate((addresses,) if isinstance(addresses, str) else addresses and tuple(addresses))


def _kernel(addresses: tuple[str, ...], program: Program, state: State) -> Program:
    return Program.of(step, (program, state, addresses))


def step(program: Program, state: State, addresses: tuple[str, ...], law_of: Callable[..., Any] | None = None) -> State:
    """The body of the kernel. `law_of` gives the conditional (another is a wrong kernel, for tests)."""
    choices = dict(state.choices)
    for address in addresses:
        law = (law_of or conditional)(program, address, choices)
        value = sample(join("draw", address), law)
        choices[address] = value.astype(choices[address].dtype)
    deterministic("accepted", jnp.ones((), bool))
    return State(choices, state.masks)


def conditional(program: Program, address: str, choices: dict[str, Any]) -> Any:
    """The exact law of one choice given all others.

    Args:
        program: Any program.
        address: A latent address with a conjugate prior.
        choices: Values of the other choices.

    Returns:
        A distribution with the shape of the choice.

    Raises:
        MeasureError: the conditional is not recognised.
    """
    refuse_branches(program, (address,))
    sliced = block(program, address, choices)
    name = program.sites[address].distribution
    if name not in FAMILIES:
        raise _unrecognised(program, sliced, address, f"the prior is a {name}, which is in no conjugate family")
    family, info = FAMILIES[name], program.sites[address]
    like = jnp.ones(info.shape, info.dtype)
    try:
        parts = separate(partial(_density, address), like, (sliced,), Forms())
    except NotSeparable as error:
        raise _unrecognised(program, sliced, address, str(error)) from error
    extra = [function for function in parts if function not in (ONE, *family.functions)]
    if extra:
        raise _unrecognised(program, sliced, address, f"its density contains {', '.join(extra)}")
    return family.law(*(_coefficient(parts, function, like) for function in family.functions))


def _density(address: str, value: Any, sliced: Program) -> Any:
    return whole(sliced, Natural(), address, value)


def _coefficient(parts: Parts, function: str, like: Any) -> Any:
    return jnp.broadcast_to(jnp.asarray(parts.get(function, 0.0), like.dtype), like.shape)


def is_conjugate(program: Program, address: str) -> bool:
    """Whether the conditional of a choice is recognised."""
    return why_not(program, address) is None


def why_not(program: Program, address: str) -> str | None:
    """Why the conditional of a choice is not recognised; None where it is."""
    info = program.sites[address]
    if info.masked or info.unbounded:
        return "it lies inside a branch or an unbounded loop"
    try:
        _abstract(program, address)
    except (BranchError, MeasureError) as error:
        return str(error)
    return None


def _abstract(program: Program, address: str) -> None:
    values = ch.values_like(program.staged, list(ch.latent_infos(program.staged)))
    jax.eval_shape(lambda p, choices: jax.tree.leaves(conditional(p, address, choices)), program, values)


def _unrecognised(program: Program, sliced: Program, address: str, why: str) -> MeasureError:
    info = program.sites[address]
    terms = ", ".join(f"{a!r} ({i.distribution}, {i.source})" for a, i in sliced.sites.items() if a != address)
    return MeasureError(
        f"The conditional of {address!r} ({info.distribution}, {info.source}) in {program.name!r} is not recognised: "
        f"{why}.\nIts density terms besides the prior: {terms or 'none'}.\n"
        f"Expected: a prior among {', '.join(FAMILIES)}, and likelihoods conjugate to it.\n"
        "Fix: use ppl.inference.slice_sampling or ppl.NUTS() for it; ppl.Gibbs() chooses by itself."
    )
