"""What a program says of draws: predictions, pointwise log likelihood, prior draws. Pure functions of arrays.

Law: each draw is completed by the program with the choices fixed that the draw really made (its masks say which), so
(draw, prediction) has the joint law of the posterior and the program. Draws are handled by one compiled run in lanes;
weights are the caller's business.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from ppl.errors import AddressError, ShapeError
from ppl.inference.population import Given, one_particle
from ppl.semantics.binding import bind_sample
from ppl.semantics.choices import refuse_unbounded
from ppl.semantics.derived import Rewritten
from ppl.semantics.jaxpr import Lane
from ppl.semantics.keys import as_key
from ppl.semantics.program import Program
from ppl.semantics.protocol import SampleSite
from ppl.semantics.rewrites import Rewrite, placed
from ppl.semantics.site import SiteInfo

ByAddress = Mapping[str, Shaped[Array | np.ndarray, "_chains _draws ..."]]

MODEL_GROUPS = ("log_likelihood", "observed_data", "posterior_predictive", "prior", "prior_predictive")


class Forget(Rewrite):
    """Observations become latent choices again."""

    def site(self, node: SampleSite, read: Any) -> Any:
        """Bind the site without its observed value."""
        del read
        kind = "latent" if node.observed is not None and node.site.kind == "observed" else node.site.kind
        observed = None if kind == "latent" else node.observed
        return bind_sample(placed(node.site._replace(kind=kind)), node.measure, observed)


def without_data(program: Program) -> Program:
    """The same program with its observations left to be drawn."""
    return Program.of(Rewritten(program.name, Forget), (program, {}))


def predict(
    program: Any, draws: ByAddress, key: Any, *, masks: ByAddress | None = None, redraw: Sequence[str] = ()
) -> dict[str, Shaped[Array, "_chains _draws ..."]]:
    """Draw what `draws` do not hold from `program`, once for each draw. See `Posterior.predict`."""
    if not isinstance(program, Program):
        raise TypeError(
            f"predict needs a Program, got {type(program).__name__}.\nFix: call the model with its arguments first."
        )
    latent = addresses_of(program, "latent")
    if not any(address in draws for address in latent):
        raise AddressError(
            f"No address of the posterior is a choice of the program {program.name!r}.\n"
            f"The posterior has: {_listed(draws)}.\n"
            f"The program's choices: {_listed(latent)}.\n"
            "Fix: give the model that the posterior came from, perhaps with other arguments."
        )
    again = (redraw,) if isinstance(redraw, str) else tuple(redraw)
    if unknown := [address for address in again if address not in latent]:
        raise AddressError(
            f"redraw names {_listed(unknown)}.\nExpected: choices of the program {program.name!r}: {_listed(latent)}."
        )
    drawn = _predicted(program, {a: x for a, x in draws.items() if a not in again}, masks or {}, key, _leading(draws))
    if not drawn:
        raise AddressError(
            f"The posterior holds every choice of the program {program.name!r}, so there is nothing to predict.\n"
            f"Its observations: {_listed(addresses_of(program, 'observed'))}.\n"
            "Fix: call the model without its data (obs=None makes a site a choice)."
        )
    return drawn


def _predicted(
    program: Program, draws: ByAddress, masks: ByAddress, key: Any, shape: tuple[int, int]
) -> dict[str, Shaped[Array, "_chains _draws ..."]]:
    """The choices drawn, anew where a draw had not made them, and the deterministic values."""
    refuse_unbounded(program.staged, "prediction")
    fixed = _latent(program, draws)
    for address, x in fixed.items():
        _check_shape(program.sites[address], x.shape[2:], program.name)
    given = {a: Given(x, masks.get(a)) for a, x in fixed.items()}
    flat = jax.tree.map(lambda x: jnp.reshape(x, (-1, *x.shape[2:])), given)
    arrays, anew = _complete(program, flat, as_key(key), shape[0] * shape[1])
    kept = [address for address, flag in anew.items() if not bool(flag)]
    return _unflat({a: x for a, x in arrays.items() if a not in kept}, shape)


def _check_shape(info: SiteInfo, shape: tuple[int, ...], name: str) -> None:
    """Raise where the draws of an address do not fit the program's site.

    Raises:
        ShapeError: naming the address and the plates whose sizes differ.
    """
    if shape == info.shape:
        return
    differing = [
        f"The plate {plate!r} has {old} elements in the posterior and {new} in the program.\n"
        for plate, old, new in zip(info.dims, shape, info.shape, strict=False)
        if plate is not None and old != new
    ]
    raise ShapeError(
        f"The posterior's draws of {info.address!r} have shape {shape}, but the program {name!r} ({info.source}) has "
        f"{info.shape} there.\n{''.join(differing)}"
        f"Fix: predict(..., redraw=[{info.address!r}]) draws it anew from the program, given the choices that are "
        "kept; or call the model with arguments of the sizes that the posterior came from."
    )


def model_groups(
    program: Program,
    draws: ByAddress,
    masks: ByAddress,
    shape: tuple[int, int],
    *,
    groups: Collection[str],
    key: Any,
) -> dict[str, dict[str, Any]]:
    """ArviZ's groups that need a program.

    Args:
        program: the program that the draws came from.
        draws: equally weighted draws; none where the program has no choices left.
        masks: for choices inside branches, whether a draw made them.
        shape: numbers of chains and of draws in each.
        groups: names of the groups wanted; others are left out.
        key: an int or a JAX key.

    Returns:
        Arrays by group and address, with axes (chain, draw) except in `observed_data`.
    """
    observed = addresses_of(program, "observed")
    makers = {
        "log_likelihood": lambda key: _log_likelihood(program, draws, shape),
        "observed_data": lambda key: program.observed(_first(program, draws)),
        "posterior_predictive": lambda key: _only(
            _predicted(without_data(program), draws, masks, key, shape), observed
        ),
        "prior": lambda key: _predicted(program, {}, {}, key, shape),
        "prior_predictive": lambda key: _only(_predicted(without_data(program), {}, {}, key, shape), observed),
    }
    prior_key, predictive_key = jax.random.split(as_key(key))
    # Both prior groups get one key: draws are keyed by address, so they are of one joint run.
    keys = dict.fromkeys(makers, prior_key) | {"posterior_predictive": predictive_key}
    return {name: make(keys[name]) for name, make in makers.items() if name in groups}


def checked_groups(groups: Sequence[str] | None, program: Program | None, draws: ByAddress) -> tuple[str, ...]:
    """The groups that there are of those wanted.

    Args:
        groups: names; None for all that make sense.
        program: the program that the draws came from, if it is known.
        draws: draws by address.

    Raises:
        ValueError: a group is unknown, or cannot be made of what there is.
    """
    obstacles = _obstacles(program, draws)
    available = [name for name in ("posterior", "sample_stats", *MODEL_GROUPS) if name not in obstacles]
    for name in groups or ():
        if name not in available:
            raise ValueError(
                f"The group {name!r} {obstacles.get(name, 'is not one of ArviZ that we make')}.\n"
                f"Available here: {', '.join(available)}."
            )
    return tuple(available if groups is None else groups)


def _obstacles(program: Program | None, draws: ByAddress) -> dict[str, str]:
    """Why a group cannot be made, by group."""
    if program is None:
        return dict.fromkeys(MODEL_GROUPS, "needs the program, which this posterior has not (it is not saved)")
    if not addresses_of(program, "observed"):
        needy = [name for name in MODEL_GROUPS if name != "prior"]
        return dict.fromkeys(needy, f"needs observations, and the program {program.name!r} has none")
    missing = [address for address in addresses_of(program, "latent") if address not in draws]
    if missing:
        needy = [name for name in MODEL_GROUPS if not name.startswith("prior")]
        return dict.fromkeys(needy, f"needs draws of every choice, and there are none of {_listed(missing)}")
    return {}


def addresses_of(program: Program, kind: str) -> list[str]:
    """Addresses of the sites of a kind, in program order."""
    return [address for address, info in program.sites.items() if info.kind == kind]


def _log_likelihood(program: Program, draws: ByAddress, shape: tuple[int, int]) -> dict[str, Any]:
    choices = _latent(program, draws)
    return _unflat(_likelihoods(program, _flat(choices), shape[0] * shape[1]), shape)


def _latent(program: Program, draws: ByAddress) -> dict[str, Any]:
    return _only(draws, addresses_of(program, "latent"))


def _first(program: Program, draws: ByAddress) -> dict[str, Any]:
    return {address: x[0, 0] for address, x in _latent(program, draws).items()}


@partial(jax.jit, static_argnums=3)
def _complete(
    program: Program, fixed: dict[str, Given], key: Array, size: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """All choices and deterministic values by address; and for the fixed ones, whether any was drawn anew."""

    def one(given: dict[str, Given]) -> tuple[dict[str, Array], dict[str, Array]]:
        aligned = {a: Given(g.value, _aligned(g.made, program, a)) for a, g in given.items()}
        run = one_particle(program, key, aligned)
        anew = {a: _drawn_anew(g.made, run.masks.get(a)) for a, g in aligned.items()}
        return {a: blanked(x, run.masks.get(a)) for a, x in run.choices.items()} | run.deterministic, anew

    arrays, anew = jax.vmap(one, axis_size=size, axis_name=Lane(0))(fixed)
    return arrays, jax.tree.map(jnp.any, anew)


def _drawn_anew(made: Any, wanted: Any) -> Any:
    """Whether the program makes a choice that the draw had not made."""
    if made is None:
        return jnp.zeros((), bool)
    if wanted is None:
        return jnp.any(~made)
    return jnp.any(~made & jnp.reshape(wanted, wanted.shape + (1,) * (made.ndim - wanted.ndim)))


def _aligned(made: Any, program: Program, address: str) -> Any:
    """A draw's mask with the axes of loops and lanes that the program's site has."""
    if made is None:
        return None
    entry = next(e for e in program.staged.table.values() if address in [info.address for info in e.infos])
    info, aval = next((i, a) for i, a in zip(entry.infos, entry.signature.avals, strict=True) if i.address == address)
    leading = info.shape[: len(info.shape) - len(aval.shape)]
    if made.ndim > len(leading):
        raise ShapeError(
            f"The posterior made single elements of {address!r} or not, inside branches, but the program "
            f"{program.name!r} ({info.source}) makes it as a whole.\n"
            f"Fix: let its loops and branches be those of the posterior's program, or redraw=[{address!r}]."
        )
    return jnp.broadcast_to(jnp.reshape(made, made.shape + (1,) * (len(leading) - made.ndim)), leading)


@partial(jax.jit, static_argnums=2)
def _likelihoods(program: Program, choices: dict[str, Array], size: int) -> dict[str, Array]:
    return jax.vmap(lambda given: program.terms(given).likelihood, axis_size=size)(choices)


def blanked(x: Any, made: Any) -> Any:
    """NaN where a choice was not made, if its dtype has one."""
    if made is None or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return jnp.where(jnp.reshape(made, made.shape + (1,) * (x.ndim - made.ndim)), x, jnp.nan)


def _leading(draws: ByAddress) -> tuple[int, int]:
    chains, count, *_ = next(iter(draws.values())).shape
    return chains, count


def _only(arrays: Mapping[str, Any], addresses: Collection[str]) -> dict[str, Any]:
    return {address: arrays[address] for address in addresses if address in arrays}


def _flat(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {address: x.reshape(-1, *x.shape[2:]) for address, x in arrays.items()}


def _unflat(arrays: Mapping[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
    return {address: x.reshape(*shape, *x.shape[1:]) for address, x in arrays.items()}


def _listed(addresses: Collection[str]) -> str:
    return ", ".join(repr(address) for address in addresses) or "none"
