"""Choices by address: checks on the way in, flat addresses on the way out.

Users see a flat `dict[str, Array]`; a site whose value is a dict (a marginal over several addresses) stands in it under
one address a key. The interpreter sees one value a site.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ppl.errors import AddressError, UnboundedError
from ppl.semantics.binding import checked_value
from ppl.semantics.site import SAMPLED, SiteInfo
from ppl.semantics.staging import StagedProgram, unknown_address
from ppl.semantics.table import Entry

LATENT = ("latent", "fixed")


def latent_infos(staged: StagedProgram) -> dict[str, SiteInfo]:
    """The sites whose values are choices."""
    return {address: info for address, info in staged.infos.items() if info.kind == "latent"}


def values_like(staged: StagedProgram, addresses: Sequence[str]) -> dict[str, Any]:
    """Shapes and dtypes of the values at some addresses."""
    infos = staged.infos
    return {a: jax.ShapeDtypeStruct(infos[a].shape, infos[a].dtype) for a in addresses}


def checked(choices: dict[str, Any], staged: StagedProgram, verb: str, *, complete: bool = False) -> dict[str, Any]:
    """Choices in the shapes and dtypes of their sites, nested by site.

    Args:
        choices: Values by address.
        staged: The program.
        verb: What the values are for; used in messages ("score", "condition").
        complete: Whether every latent address must be there.

    Raises:
        AddressError, ShapeError, DtypeError: naming the address and the site's line.
    """
    if not isinstance(choices, Mapping):
        hint = " Use `trace.choices`." if hasattr(choices, "choices") else ""
        raise TypeError(f"The choices to {verb} are a {type(choices).__name__}.\nExpected: a dict by address.{hint}")
    known = latent_infos(staged)
    values = {}
    for address, value in choices.items():
        if address not in known:
            raise _not_latent(address, staged, verb)
        info = known[address]
        if info.unbounded:
            raise _unrecorded(address, info, verb)
        aval = jax.ShapeDtypeStruct(info.shape, info.dtype)
        values[address] = checked_value(value, aval, address, info.source)
    if complete and len(values) < len(known):
        missing = [f"{a!r} ({known[a].source})" for a in known if a not in values]
        raise AddressError(
            f"To {verb} the program, every latent choice needs a value; missing: {', '.join(missing)}.\n"
            "Give them, or use `generate(key, choices)`, which draws the rest."
        )
    return nest(values, staged)


def _not_latent(address: str, staged: StagedProgram, verb: str) -> AddressError:
    info = staged.infos.get(address)
    if info is None:
        return unknown_address(address, staged.infos, verb)
    hints = {"observed": " To change an observation, bind the model to other data, or use `intervene`."}
    return AddressError(
        f"A value was given to {verb} the address {address!r}, which is {info.kind} at {info.source}.\n"
        f"Expected: latent addresses only.{hints.get(info.kind, '')}"
    )


def _unrecorded(address: str, info: SiteInfo, verb: str) -> UnboundedError:
    return UnboundedError(
        f"A value was given to {verb} the choice {address!r} ({info.source}), which lies inside a while_loop: it is "
        "made an unknown number of times.\n"
        "Use lax.scan or lax.fori_loop with a fixed number of steps, or give a value to a choice outside the loop."
    )


def refuse_unbounded(staged: StagedProgram, what: str) -> None:
    """Raise where a trace or density cannot be told because a loop's length is not known beforehand."""
    loose = [info for info in staged.infos.values() if info.unbounded]
    if loose:
        names = ", ".join(f"{info.address!r} ({info.source})" for info in loose)
        raise UnboundedError(
            f"The {what} was asked of a program with choices inside a while_loop: {names}.\n"
            "The number of such choices is not known beforehand, so they can be simulated (`program.sample(key)`) "
            "but not recorded or scored. Use lax.scan or lax.fori_loop with a fixed number of steps, masking the "
            "ones beyond the end."
        )


def nest(choices: dict[str, Any], staged: StagedProgram) -> dict[str, Any]:
    """From flat addresses to one value a site; sites of which only some parts are given are an error."""
    nested = {}
    for site_address, entry in staged.table.items():
        names = [info.address for info in entry.infos]
        present = [name for name in names if name in choices]
        if not present or entry.site.kind not in SAMPLED:
            continue
        if len(present) < len(names):
            raise AddressError(
                f"The site {site_address!r} ({entry.site.source}) is one choice over {names}; only {present} were "
                "given."
            )
        nested[site_address] = jax.tree.unflatten(entry.signature.value_tree, [choices[name] for name in names])
    return nested


def flatten(writes: dict[str, Any], staged: StagedProgram, kinds: tuple[str, ...]) -> dict[str, Any]:
    """From one written value a site to flat addresses, in program order, for sites of the given kinds."""
    flat: dict[str, Any] = {}
    for site_address, entry in staged.table.items():
        if entry.site.kind in kinds and site_address in writes:
            flat.update(zip(_names(entry), jax.tree.leaves(writes[site_address]), strict=True))
    return flat


def spread(masks: dict[str, Any], staged: StagedProgram) -> dict[str, Any]:
    """Masks of latent sites, one for each flat address; sites outside branches have none."""
    return {
        name: jnp.asarray(masks[site_address])
        for site_address, entry in staged.table.items()
        if entry.site.kind in LATENT and site_address in masks
        for name in _names(entry)
    }


def _names(entry: Entry) -> list[str]:
    return [info.address for info in entry.infos]
