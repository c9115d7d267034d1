"""What a program says of draws: predictions, pointwise log likelihood, prior draws. Pure functions of arrays.

Law: each draw is completed by `Program.generate` with its own choices fixed, so (draw, prediction) has the joint law
of the posterior and the program. Draws are handled by one compiled `vmap`; weights are the caller's business.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from ppl.errors import AddressError
from ppl.semantics.binding import bind_sample
from ppl.semantics.keys import as_key
from ppl.semantics.program import Program
from ppl.semantics.protocol import SampleSite
from ppl.semantics.rewrites import Rewrite, placed

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
    return Program.of(_forgotten, (program,))


def _forgotten(program: Program) -> Any:
    return program.rewrite(Forget())


def predict(program: Any, draws: ByAddress, key: Any) -> dict[str, Shaped[Array, "_chains _draws ..."]]:
    """Draw what `draws` do not hold from `program`, once for each draw. See `Posterior.predict`."""
    if not isinstance(program, Program):
        raise TypeError(
            f"predict needs a Program, got {type(program).__name__}.\nFix: call the model with its arguments first."
        )
    fixed = {a: draws[a] for a in addresses_of(program, "latent") if a in draws}
    if not fixed:
        raise AddressError(
            f"No address of the posterior is a choice of the program {program.name!r}.\n"
            f"The posterior has: {_listed(draws)}.\n"
            f"The program's choices: {_listed(addresses_of(program, 'latent'))}.\n"
            "Fix: give the model that the posterior came from, perhaps with other arguments."
        )
    chains, count = _leading(fixed)
    drawn = _complete(program, _flat(fixed), jax.random.split(as_key(key), chains * count))
    if not drawn:
        raise AddressError(
            f"The posterior holds every choice of the program {program.name!r}, so there is nothing to predict.\n"
            f"Its observations: {_listed(addresses_of(program, 'observed'))}.\n"
            "Fix: call the model without its data (obs=None makes a site a choice)."
        )
    return _unflat(drawn, (chains, count))


def model_groups(program: Program, draws: ByAddress, groups: Collection[str], key: Any) -> dict[str, dict[str, Any]]:
    """ArviZ's groups that need a program.

    Args:
        program: the program that the draws came from.
        draws: equally weighted draws.
        groups: names of the groups wanted; others are left out.
        key: an int or a JAX key.

    Returns:
        Arrays by group and address, with axes (chain, draw) except in `observed_data`.
    """
    observed = addresses_of(program, "observed")
    makers = {
        "log_likelihood": lambda key: _log_likelihood(program, draws),
        "observed_data": lambda key: program.observed(_first(program, draws)),
        "posterior_predictive": lambda key: _only(predict(without_data(program), draws, key), observed),
        "prior": lambda key: _prior(program, draws, key),
        "prior_predictive": lambda key: _only(_prior(without_data(program), draws, key), observed),
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


def _log_likelihood(program: Program, draws: ByAddress) -> dict[str, Any]:
    choices = _latent(program, draws)
    return _unflat(_likelihoods(program, _flat(choices)), _leading(draws))


def _prior(program: Program, draws: ByAddress, key: Any) -> dict[str, Any]:
    chains, count = _leading(draws)
    return _unflat(_complete(program, {}, jax.random.split(key, chains * count)), (chains, count))


def _latent(program: Program, draws: ByAddress) -> dict[str, Any]:
    return _only(draws, addresses_of(program, "latent"))


def _first(program: Program, draws: ByAddress) -> dict[str, Any]:
    return {address: x[0, 0] for address, x in _latent(program, draws).items()}


@jax.jit
def _complete(program: Program, fixed: dict[str, Array], keys: Array) -> dict[str, Array]:
    def one(choices: dict[str, Array], key: Array) -> dict[str, Array]:
        trace = program.generate(key, choices)
        new = {address: x for address, x in trace.choices.items() if address not in fixed}
        return {a: _blanked(x, trace.masks.get(a)) for a, x in new.items()} | trace.deterministic

    return jax.vmap(one)(fixed, keys)


@jax.jit
def _likelihoods(program: Program, choices: dict[str, Array]) -> dict[str, Array]:
    return jax.vmap(lambda given: program.terms(given).likelihood)(choices)


def _blanked(x: Array, made: Array | None) -> Array:
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
