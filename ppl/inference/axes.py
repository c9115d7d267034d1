"""The leading axes (chain, draw) that all arrays of a posterior share.

Law: after `check_axes`, flat index `chain * draws + draw` means the same draw in every array.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl.errors import AddressError, ShapeError


def named_arrays(parts: Mapping[str, Mapping[str, Any]], values: Any, log_weights: Any) -> list[tuple[str, Any]]:
    """All arrays of a posterior, each with a name for messages."""
    named = [(f"{part}[{name!r}]", x) for part, arrays in parts.items() for name, x in arrays.items()]
    leaves = jax.tree_util.tree_leaves_with_path(values)
    named += [(f"values{jax.tree_util.keystr(path)}", x) for path, x in leaves]
    return named if log_weights is None else [*named, ("log_weights", log_weights)]


def check_axes(named: list[tuple[str, Any]], masks: Collection[str], draws: Collection[str]) -> None:
    """Raise where arrays do not share their leading axes, or masks have no draws.

    Raises:
        ShapeError: an array has other leading axes than the first.
        AddressError: a mask is for an address without draws.
    """
    if not named:
        raise ShapeError("A posterior needs at least one array of draws, got none.")
    first, expected = named[0][0], np.shape(named[0][1])[:2]
    for name, x in named:
        if len(np.shape(x)) < 2 or np.shape(x)[:2] != expected:
            raise ShapeError(
                f"{name} has shape {np.shape(x)}.\nExpected: leading axes (chain, draw) = {expected}, as {first} has.\n"
                "Fix: add a chain axis with x[None], or give all arrays the same number of draws."
            )
    if stray := set(masks) - set(draws):
        raise AddressError(f"masks has addresses that draws has not: {sorted(stray)}.")


def flat(x: Any) -> Any:
    """Chains and draws as one axis."""
    return jnp.asarray(x).reshape(-1, *x.shape[2:])


def chosen(arrays: Mapping[str, Any], addresses: Sequence[str] | None) -> dict[str, Any]:
    """The arrays at some addresses, in their order; all where `addresses` is None.

    Raises:
        AddressError: an address is not there.
    """
    names = (addresses,) if isinstance(addresses, str) else tuple(arrays if addresses is None else addresses)
    for address in names:
        if address not in arrays:
            raise AddressError(f"The posterior has no address {address!r}.\nIt has: {', '.join(map(repr, arrays))}.")
    return {address: arrays[address] for address in names}
