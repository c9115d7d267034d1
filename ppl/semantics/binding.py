"""From a resolved site to an equation: addresses under the current prefix, and checks of observed values."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl.distributions.density import has_mask
from ppl.errors import AddressError, DtypeError, MeasureError, NaNError, ShapeError
from ppl.semantics import scope
from ppl.semantics.jaxpr import sample_p
from ppl.semantics.measures import join, name_of, value_avals
from ppl.semantics.site import Signature, Site, Source


def bind_sample(site: Site, measure: Any, obs: Any = None) -> Any:
    """Bind a `sample` equation with everything already resolved (address, plates, source)."""
    leaves, tree = jax.tree.flatten(measure)
    avals, value_tree = value_avals(measure)
    observed = [] if obs is None else observation_leaves(obs, avals, value_tree, site, nan_ok=has_mask(measure))
    event_rank = len(getattr(measure, "event_shape", ()))
    signature = Signature(name_of(tree), tree, len(leaves), value_tree, avals, event_rank)
    values = sample_p.bind(*leaves, *observed, site=site, signature=signature)
    return jax.tree.unflatten(value_tree, values)


def full_address(address: str, source: Source) -> str:
    """The address with the prefix of the programs around it."""
    if not isinstance(address, str) or not address or address.startswith("/") or address.endswith("/"):
        raise AddressError(
            f"The address {address!r} at {source} is not a valid name.\n"
            "Expected: a non-empty string that neither starts nor ends with '/'."
        )
    return join(scope.current().prefix, address)


def observation_leaves(
    obs: Any, avals: tuple[Any, ...], value_tree: Any, site: Site, *, nan_ok: bool = False
) -> list[Any]:
    """Check an observed value against its site (masked ones may hold NaN) and convert it to the site's dtypes."""
    leaves, tree = jax.tree.flatten(obs)
    if tree != value_tree:
        raise MeasureError(
            f"The observation of the site {site.address!r} at {site.source} is a {type(obs).__name__} with the "
            f"structure {tree}.\n" + _expected_structure(value_tree)
        )
    pairs = zip(leaves, avals, strict=True)
    return [checked_value(leaf, aval, site.address, str(site.source), nan_ok=nan_ok) for leaf, aval in pairs]


def _expected_structure(value_tree: Any) -> str:
    if value_tree == jax.tree.structure(0):
        return "Expected: one array. Convert the data, for example with jnp.asarray(data)."
    return f"Expected: the structure of one draw, {value_tree}."


def checked_value(value: Any, aval: Any, address: str, source: str, *, nan_ok: bool = False) -> Any:
    """A value in the shape and dtype of its site, or an error that names both."""
    value = np.asarray(value) if isinstance(value, list | tuple) else value
    shape, dtype = jnp.shape(value), jnp.result_type(value)
    if shape != aval.shape:
        raise ShapeError(
            f"The value for {address!r} ({source}) has shape {shape}.\nExpected: {aval.shape}, the shape of one draw.\n"
            "Reshape the data, or change the distribution's batch shape (parameters, ppl.plate, .expand)."
        )
    if not _fits(dtype, aval.dtype):
        raise DtypeError(
            f"The value for {address!r} ({source}) has dtype {dtype}.\n"
            f"Expected: {aval.dtype} (the distribution's), or a narrower kind.\n"
            f"Convert the data, for example with .astype({aval.dtype.name!r})."
        )
    if not nan_ok and isinstance(value, np.ndarray | np.generic | float):
        refuse_nan(value, address, source)
    return value if dtype == aval.dtype else jnp.asarray(value, aval.dtype)


def refuse_nan(value: Any, address: str, source: str) -> None:
    """Raise where a concrete value holds NaN."""
    if jnp.issubdtype(jnp.result_type(value), jnp.inexact) and np.isnan(np.asarray(value)).any():
        raise NaNError(f"The value for {address!r} ({source}) holds NaN.\n{NAN_ADVICE}")


NAN_ADVICE = "Expected: numbers. Drop the missing rows, or score only the present ones: `distribution.mask(present)`."


_KINDS = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}


def _fits(dtype: Any, wanted: Any) -> bool:
    """Whether a dtype converts to the wanted one without losing its kind (bool < int < float < complex)."""
    given, target = _KINDS.get(jnp.dtype(dtype).kind), _KINDS.get(getattr(wanted, "kind", "?"))
    return dtype == wanted or (given is not None and target is not None and given <= target)
