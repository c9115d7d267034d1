"""`ppl.vmap`: `jax.vmap` for functions with sites, one draw a lane.

The mapped function is staged into one `lanes` equation, so that an interpreter knows what is independent by
construction: it can draw all lanes with one key, and sum finite choices out lane by lane.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp

from ppl.errors import ShapeError
from ppl.semantics.jaxpr import Code, contains_sites, lanes_p, stage
from ppl.semantics.site import Site, Source, user_source
from ppl.semantics.staging import is_array


def vmap(f: Callable[..., Any], in_axes: Any = 0, axis_size: int | None = None) -> Callable[..., Any]:
    """Map a function over lanes; random choices inside are independent between lanes.

    Args:
        f: A function of pytrees; it may contain sites. Each address inside gets a leading axis of lanes.
        in_axes: Which axis of each positional argument is mapped, as in `jax.vmap`: an int, None, or a tuple of
            pytree prefixes.
        axis_size: The number of lanes, needed only when nothing is mapped.

    Returns:
        The mapped function; its outputs have a leading axis of lanes. Keyword arguments are mapped over axis 0.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def points(mus):
        ...     return ppl.vmap(lambda mu: ppl.sample("x", dist.Normal(mu, 1.0)))(mus)
        >>> points(jax.numpy.zeros(5)).sample(jax.random.key(0)).shape
        (5,)
    """

    @wraps(f)
    def mapped(*args: Any, **kwargs: Any) -> Any:
        source = user_source()
        leaves, tree = jax.tree.flatten((args, kwargs))
        axes = _flat_axes(args, kwargs, in_axes, tree, source)
        size = _lane_count(leaves, axes, axis_size, source)
        fixed = [axis is None and not is_array(leaf) for leaf, axis in zip(leaves, axes, strict=True)]
        free = [(leaf, axis) for leaf, axis, kept in zip(leaves, axes, fixed, strict=True) if not kept]
        fronted = [leaf if axis is None else jnp.moveaxis(leaf, axis, 0) for leaf, axis in free]

        def flat(*inner: Any) -> Any:
            rest = iter(inner)
            merged = [leaf if kept else next(rest) for leaf, kept in zip(leaves, fixed, strict=True)]
            inner_args, inner_kwargs = jax.tree.unflatten(tree, merged)
            return f(*inner_args, **inner_kwargs)

        return _bind(flat, fronted, tuple(axis is not None for _, axis in free), size, source)

    return mapped


def _bind(flat: Callable[..., Any], operands: list[Any], batched: tuple[bool, ...], size: int, source: Source) -> Any:
    staged = stage(flat, *[_lane_aval(leaf, mapped=mapped) for leaf, mapped in zip(operands, batched, strict=True)])
    code, consts = staged.code, staged.code.consts
    if not contains_sites(code.jaxpr):
        return jax.vmap(flat, in_axes=tuple(0 if mapped else None for mapped in batched), axis_size=size)(*operands)
    outs = lanes_p.bind(
        *consts,
        *operands,
        site=Site("vmap", "lanes", source),
        body=Code(code.jaxpr, ()),
        batched=(*(False for _ in consts), *batched),
        size=size,
        out_avals=staged.out_avals,
    )
    return jax.tree.unflatten(staged.out_tree, outs)


def _lane_aval(leaf: Any, *, mapped: bool) -> jax.ShapeDtypeStruct:
    aval = jax.typeof(leaf)
    shape = aval.shape[1:] if mapped else aval.shape
    return jax.ShapeDtypeStruct(shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


def _flat_axes(
    args: tuple[Any, ...], kwargs: dict[str, Any], in_axes: Any, tree: Any, source: Source
) -> list[int | None]:
    """One axis (or None) a leaf, from the prefix `in_axes`."""
    prefix = tuple(in_axes) if isinstance(in_axes, tuple | list) else (in_axes,) * len(args)
    if len(prefix) != len(args):
        raise ShapeError(
            f"ppl.vmap at {source}: in_axes has {len(prefix)} entries for {len(args)} positional arguments.\n"
            "Expected: one entry an argument."
        )
    try:
        full = jax.tree.broadcast((prefix, 0), (args, kwargs), is_leaf=lambda x: x is None)
    except ValueError as error:
        raise ShapeError(
            f"ppl.vmap at {source}: in_axes {in_axes} does not fit the arguments, whose structure is "
            f"{jax.tree.structure(args)}.\nExpected: an int or None for each argument, or for each part of it."
        ) from error
    return jax.tree.leaves(full, is_leaf=lambda x: x is None)


def _lane_count(leaves: list[Any], axes: list[int | None], axis_size: int | None, source: Source) -> int:
    for leaf, axis in zip(leaves, axes, strict=True):
        if axis is not None and not -jnp.ndim(leaf) <= axis < jnp.ndim(leaf):
            raise ShapeError(
                f"ppl.vmap at {source}: in_axes maps axis {axis} of an argument of shape {jnp.shape(leaf)}.\n"
                "Expected: an axis that the argument has, or None for an argument that all lanes share."
            )
    sizes = {jnp.shape(leaf)[axis] for leaf, axis in zip(leaves, axes, strict=True) if axis is not None}
    if axis_size is not None:
        sizes.add(axis_size)
    if len(sizes) != 1:
        raise ShapeError(
            f"ppl.vmap at {source} found lane counts {sorted(sizes) or 'none'} along the mapped axes.\n"
            "Expected: one size; when nothing is mapped, give axis_size."
        )
    return sizes.pop()
