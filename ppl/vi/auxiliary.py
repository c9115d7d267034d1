"""Bounds for guides with auxiliary choices: the guide makes (u, x), the model x alone, a reverse model tells u from x.

    hvi          E[log p(x, y) - log q(u, x) + log r(u | x)]
    iwhvi_m      E[log p(x, y) - log mean_i q(u_i, x) / r(u_i | x)],   u_1 the u that made x, the others from r
    diwhvi_n,m   E[log mean_k p(x_k, y) / qhat_m(x_k)],                qhat_m(x) the mean above

hvi = iwhvi_1 and iwhvi_m = diwhvi_1,m; all are lower bounds of log p(y), tighter with n and with m. Ranganath, Tran,
Blei, *Hierarchical variational models* (2016); Sobolev and Vetrov, *Importance weighted hierarchical variational
inference* (2019).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import ppl.vi.pairing as pairs
from ppl.errors import AddressError
from ppl.semantics.choices import latent_infos
from ppl.semantics.lanes import vmap
from ppl.semantics.program import Program
from ppl.semantics.protocol import Choices
from ppl.vi.language import log_density, simulate
from ppl.vi.objective import Objective
from ppl.vi.objectives import log_mean_exp

Reverse = Callable[..., Program]
"""A function `(params, choices, *args) -> program` over the auxiliary choices; `choices` are the model's."""


def hvi(model: Program | pairs.Maker, guide: pairs.Maker, reverse: Reverse) -> Objective:
    """The hierarchical bound: E_q[log p(x, y) - log q(u, x) + log r(u | x)].

    Args:
        model: A program, or a function `(params, *args) -> program`.
        guide: A function `(params, *args) -> program` over the model's latent addresses and auxiliary ones.
        reverse: A function `(params, choices, *args) -> program` over the auxiliary ones; `choices` are the model's.

    Returns:
        An objective to be maximised.

    Examples:
        >>> import jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> from ppl import vi
        >>> @ppl.model
        ... def model():
        ...     ppl.sample("x", dist.Normal(1.0, 1.0))
        >>> @ppl.model
        ... def guide(mean):
        ...     u = ppl.sample("u", dist.Normal(mean, 1.0))
        ...     ppl.sample("x", dist.Normal(u, 1.0))
        >>> @ppl.model
        ... def reverse(mean, choices):
        ...     ppl.sample("u", dist.Normal((mean + choices["x"]) / 2, 0.5**0.5))  # exactly u given x
        >>> objective = vi.hvi(model(), guide, reverse).average(4000)
        >>> round(float(objective.value(0, jnp.array(1.0))), 1)  # minus KL(N(1, 2) | N(1, 1))
        -0.2
    """
    return _bound(model, guide, reverse, outer=1, inner=1)


def iwhvi(model: Program | pairs.Maker, guide: pairs.Maker, reverse: Reverse, particles: int) -> Objective:
    """The hierarchical bound with `particles` auxiliaries for the guide's density: E[log p(x, y) - log qhat(x)].

    It is the ELBO of the guide's marginal, estimated by sampling-importance-resampling with the reverse model.

    Args:
        model: As for `hvi`.
        guide: As for `hvi`.
        reverse: As for `hvi`.
        particles: The number m of auxiliaries, the guide's own among them.

    Returns:
        An objective to be maximised.
    """
    return _bound(model, guide, reverse, outer=1, inner=particles)


def diwhvi(
    model: Program | pairs.Maker, guide: pairs.Maker, reverse: Reverse, particles: int, auxiliaries: int
) -> Objective:
    """The doubly weighted hierarchical bound: E[log mean_k p(x_k, y) / qhat(x_k)].

    Args:
        model: As for `hvi`.
        guide: As for `hvi`.
        reverse: As for `hvi`.
        particles: The number n of draws of the guide.
        auxiliaries: The number m of auxiliaries for each, the guide's own among them.

    Returns:
        An objective to be maximised.
    """
    return _bound(model, guide, reverse, outer=particles, inner=auxiliaries)


def _bound(model: Any, guide: Any, reverse: Any, *, outer: int, inner: int) -> Objective:
    return Objective(_hierarchical, bound=(model, guide, reverse, Sizes(outer, inner)), maximize=True)


class Sizes(NamedTuple):
    """How many draws of the guide, and how many auxiliaries for each."""

    outer: int
    inner: int


def _hierarchical(model: Any, guide: Any, reverse: Any, sizes: Sizes, params: Any, *args: Any) -> Any:
    target, proposal = pairs.paired(model, guide, params, args)
    subsets = pairs.missing_subsets(target, proposal)

    def drawn() -> tuple[Choices, Any, Any]:
        choices, log_q = simulate(proposal)
        kept, auxiliary = _parted(choices, target)
        backward = _reversed(reverse, params, kept, args)
        _check(backward, auxiliary, proposal)
        return kept, log_density(target, {**kept, **subsets}), log_q - backward.log_density(auxiliary)

    def fresh(kept: Choices) -> Any:
        auxiliary, log_r = simulate(_reversed(reverse, params, kept, args), "reverse")
        return proposal.log_density({**kept, **auxiliary}) - log_r

    kept, log_p, own = _lanes(drawn, sizes.outer)
    ratios = [own[None]]
    if sizes.inner > 1:  # one set of lanes for all: lanes within lanes could not be enumerated
        tiled = jax.tree.map(lambda x: jnp.tile(x, (sizes.inner - 1, *(1,) * (x.ndim - 1))), kept)
        ratios.append(vmap(fresh)(tiled).reshape(sizes.inner - 1, sizes.outer))
    return log_mean_exp(log_p - log_mean_exp(jnp.concatenate(ratios)))


def _lanes(f: Callable[[], Any], size: int) -> Any:
    """`size` runs of a function, with a leading axis; one run alone stays out of `ppl.vmap`."""
    return vmap(f, axis_size=size)() if size > 1 else jax.tree.map(lambda x: jnp.asarray(x)[None], f())


def _reversed(reverse: Any, params: Any, kept: Choices, args: tuple[Any, ...]) -> Program:
    return pairs.program_at(reverse, "reverse model", params, (kept, *args))


def _parted(choices: Choices, target: Program) -> tuple[Choices, Choices]:
    """The choices that the model makes too, and the auxiliary ones."""
    known = latent_infos(target.staged)
    kept = {address: value for address, value in choices.items() if address in known}
    return kept, {address: value for address, value in choices.items() if address not in known}


def _check(backward: Program, auxiliary: Choices, proposal: Program) -> None:
    made = latent_infos(backward.staged)
    if set(made) != set(auxiliary):
        raise AddressError(
            f"The reverse model {backward.name!r} makes the choices {list(made)}; the auxiliary choices of the guide "
            f"{proposal.name!r}, those that the model lacks, are {list(auxiliary)}.\nExpected: the same addresses."
        )
