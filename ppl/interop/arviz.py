"""ArviZ out: arrays by group and address become an `xarray.DataTree`.

Law: every number of the groups given is in the tree, with the axes (chain, draw) first and the plates' names on the
axes that plates made. It computes no group and knows no posterior: see `Posterior.to_arviz`.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Shaped

Group = Mapping[str, Shaped[Array | np.ndarray, "..."]]
Dims = tuple[str | None, ...]
RESERVED = ("chain", "draw")


def to_datatree(
    groups: Mapping[str, Group],
    *,
    masks: Mapping[str, Bool[Array | np.ndarray, "_chains _draws ..."]] | None = None,
    dims: Mapping[str, Dims] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    particle_stats: Mapping[str, tuple[tuple[str, ...], np.ndarray]] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Make the tree.

    Args:
        groups: arrays by group and address, with axes (chain, draw) first except in groups named `*data`.
        masks: for addresses inside branches, where the choice was made: floats become NaN elsewhere, and the mask
            itself stands in `sample_stats` as `<address>.made`.
        dims: names of an address's own axes; None where an axis has none. Fewer axes than names keep the first.
        coords: labels of the axes, by name; 0, 1, ... by default.
        particle_stats: more variables of `sample_stats`, each with all its axes' names.
        attrs: attributes of `posterior`.

    Returns:
        An `xarray.DataTree` in ArviZ's layout. `/` in addresses becomes `.`, since a tree reads it as a path;
        an address `chain` or `draw` has `_` appended, an axis named so or like a variable `_dim`; where axes of
        one name `n` have several sizes, those unlike the first have it appended, as in `n_5`.

    Raises:
        ValueError: labels do not fit the axis that they are for, or there is no axis of that name.
    """
    import xarray as xr  # on first use: see the docstring of ppl.diagnostics

    tables = {group: dict(arrays) for group, arrays in groups.items()}
    masks = masks or {}
    if "posterior" in tables:
        tables["posterior"] = {a: _masked(x, masks.get(a)) for a, x in tables["posterior"].items()}
    if "sample_stats" in tables:
        tables["sample_stats"] |= {f"{address}.made": mask for address, mask in masks.items()}
    addresses = sorted({address for arrays in tables.values() for address in arrays})
    names = variable_names(addresses)
    taken = {*names.values(), *RESERVED}
    renamed = {name: _free(name, taken) for name in coords or {}}
    labels = {renamed[name]: list(values) for name, values in (coords or {}).items()}
    own = {names[a]: [d and _free(d, taken) for d in axes] for a, axes in (dims or {}).items() if a in names}
    plain = {group: {names[a]: _plain(x) for a, x in arrays.items()} for group, arrays in tables.items()}
    axes = _axis_names(plain, own, taken)
    made = {axis for variables in axes.values() for fitted in variables.values() for axis in fitted}
    _check_labels(renamed, made | {_free(d, taken) for plates in (dims or {}).values() for d in plates if d})
    tree = {group: _dataset(group, variables, axes[group], labels) for group, variables in plain.items()}
    tree = {group: data for group, data in tree.items() if len(data.variables)}
    if particle_stats:
        stats = tree.get("sample_stats", xr.Dataset())
        tree["sample_stats"] = stats.assign({name: xr.Variable(*x) for name, x in particle_stats.items()})
    if "posterior" in tree:
        tree["posterior"].attrs |= dict(attrs or {})
    return xr.DataTree.from_dict(tree)


def weighted_stats(
    ancestors: np.ndarray, log_weights: Shaped[Array | np.ndarray, "_chains _draws"]
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """What `sample_stats` says of a weighted posterior that was resampled.

    Args:
        ancestors: for each resampled draw, the flat index of the draw that it copies.
        log_weights: unnormalised log weights of the draws (nats).

    Returns:
        `ancestor` (chain, draw) and `log_weights` (particle), as arguments of `xarray.Variable`.
    """
    return {
        "ancestor": (("chain", "draw"), np.asarray(ancestors)[None]),
        "log_weights": (("particle",), np.asarray(log_weights).ravel()),
    }


def variable_names(addresses: Sequence[str]) -> dict[str, str]:
    """Names without `/`, distinct for distinct addresses and from `chain` and `draw`.

    Examples:
        >>> variable_names(["a.b", "a/b", "chain"])
        {'a.b': 'a.b', 'a/b': 'a.b_', 'chain': 'chain_'}
    """
    names = {address: address for address in addresses if "/" not in address and address not in RESERVED}
    taken = {*names, *RESERVED}
    for address in addresses:
        if address not in names:
            names[address] = _free(address.replace("/", "."), taken, "_")
            taken.add(names[address])
    return {address: names[address] for address in addresses}


def _axis_names(
    groups: Mapping[str, Mapping[str, np.ndarray]], dims: Mapping[str, list[Any]], taken: Collection[str]
) -> dict[str, dict[str, list[str]]]:
    """A name for each own axis by group and variable; axes of one name have one size, all groups together."""
    first: dict[str, int] = {}
    known = {*taken, *(axis for axes in dims.values() for axis in axes if axis)}

    def of_size(axis: str, size: int) -> str:
        if first.setdefault(axis, size) == size:
            return axis
        other = _free(f"{axis}_{size}", known)
        return other if first.setdefault(other, size) == size else of_size(f"{other}_", size)

    names: dict[str, dict[str, list[str]]] = {}
    for group, variables in groups.items():
        names[group] = {}
        for name, x in variables.items():
            own = x.shape[_leading(group) :]
            fitted = _fitted(name, dims.get(name, []), len(own))
            names[group][name] = [of_size(axis, size) for axis, size in zip(fitted, own, strict=True)]
    return names


def _leading(group: str) -> int:
    return 0 if group.endswith("data") else len(RESERVED)


def _check_labels(renamed: Mapping[str, str], axes: Collection[str]) -> None:
    """Raise where labels are for no axis; `renamed` has the axes' names of what the user named."""
    for name, axis in renamed.items():
        if axis not in axes:
            near = difflib.get_close_matches(name, sorted(axes), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"coords labels {name!r}, but no axis has that name.{hint}\nThe axes: {sorted(axes)}.")


def _dataset(
    group: str, variables: Mapping[str, np.ndarray], own: Mapping[str, list[str]], labels: dict[str, list[Any]]
) -> Any:
    import arviz_base  # on first use: see the docstring of ppl.diagnostics

    leading = _leading(group)
    used = {
        axis: size for name, x in variables.items() for axis, size in zip(own[name], x.shape[leading:], strict=True)
    }
    for axis, values in labels.items():
        if axis in used and used[axis] != len(values):
            raise ValueError(
                f"The axis {axis!r} has {used[axis]} elements in the group {group!r}, but coords gives {len(values)} "
                "labels.\nFix: give one label for each element of the plate."
            )
    return arviz_base.dict_to_dataset(
        variables,
        sample_dims=[] if leading == 0 else list(RESERVED),
        dims=dict[Any, Any](own),
        coords={axis: values for axis, values in labels.items() if axis in used},
        check_conventions=False,
    )


def _fitted(name: str, axes: Sequence[str | None], count: int) -> list[str]:
    """A name for each of `count` axes; `name_dim_i` where there is none."""
    known = list(axes[:count]) + [None] * (count - len(axes))
    return [axis or f"{name}_dim_{index}" for index, axis in enumerate(known)]


def _free(name: str, taken: Collection[str], suffix: str = "_dim") -> str:
    while name in taken:
        name += suffix
    return name


def _masked(values: Any, mask: Any) -> Any:
    if mask is None or not jnp.issubdtype(values.dtype, jnp.floating):
        return values
    made = np.asarray(mask)
    made = made.reshape(made.shape + (1,) * (values.ndim - made.ndim))
    return np.where(made, np.asarray(values), np.asarray(np.nan, values.dtype))


def _plain(values: Any) -> np.ndarray:
    """A NumPy array that xarray and netCDF can hold."""
    if jnp.issubdtype(values.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(values))
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
