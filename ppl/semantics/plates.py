"""Plates: batch dimensions of independent copies, named for humans and ArviZ.

A plate widens the batch shape of the distributions inside it and, when subsampled, scales their log densities by
`size / subsample_size`, so that a subsample's log density is an unbiased estimate of the whole plate's.
"""

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int

from ppl.distributions.scaled import Scaled
from ppl.distributions.subset import RandomSubset
from ppl.errors import ShapeError
from ppl.semantics import scope
from ppl.semantics.binding import bind_sample, full_address
from ppl.semantics.measures import batch_shape, expand
from ppl.semantics.site import PlateFrame, Site, Source, user_source


@contextmanager
def plate(
    name: str, size: int, subsample_size: int | None = None, dim: int | None = None
) -> Iterator[Int[Array, "subsample"]]:
    """A named batch dimension of independent copies.

    Args:
        name: The name of the dimension (the address of the subsample, and the dimension's name in ArviZ).
        size: How many copies there are.
        subsample_size: How many of them to draw at random, without replacement, in each run; all by default.
        dim: The batch dimension, a negative number counted from the right; the first free one by default.

    Yields:
        The indices of the copies at hand, shape `(subsample_size,)`.

    Examples:
        >>> import jax, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def schools():
        ...     with ppl.plate("school", 8):
        ...         return ppl.sample("theta", dist.Normal(0.0, 1.0))
        >>> schools().sample(jax.random.key(0)).shape
        (8,)
    """
    source = user_source()
    here = scope.current()
    frame = _frame(name, size, size if subsample_size is None else subsample_size, dim, here.plates, source)
    indices = _indices(frame, source)
    with scope.entered(here._replace(plates=(*here.plates, frame))):
        yield indices


def _frame(
    name: str, size: int, subsample: int, dim: int | None, active: tuple[PlateFrame, ...], source: Source
) -> PlateFrame:
    size, subsample = operator.index(size), operator.index(subsample)
    if not 0 < subsample <= size:
        raise ShapeError(
            f"The plate {name!r} at {source} has size {size} and subsample_size {subsample}.\n"
            "Expected: 0 < subsample_size <= size."
        )
    taken = {frame.dim for frame in active}
    free = next(-d for d in range(1, len(taken) + 2) if -d not in taken)
    chosen = free if dim is None else dim
    if chosen >= 0 or chosen in taken:
        raise ShapeError(
            f"The plate {name!r} at {source} asks for dim {dim}; the dims {sorted(taken)} are taken.\n"
            "Expected: a free, negative dimension."
        )
    return PlateFrame(name, size, subsample, chosen)


def _indices(frame: PlateFrame, source: Source) -> Any:
    if frame.subsample_size == frame.size:
        return jnp.arange(frame.size)
    site = Site(full_address(frame.name, source), "latent", source)
    return bind_sample(site, RandomSubset(frame.size, frame.subsample_size))


def expanded(measure: Any, frames: tuple[PlateFrame, ...], address: str, source: Source) -> Any:
    """The measure as it stands inside the plates: widened, and scaled where they are subsampled."""
    if not frames:
        return measure
    shape = _plated_shape(batch_shape(measure), frames, address, source)
    widened = measure if shape == batch_shape(measure) else expand(measure, shape, address, source)
    scale = 1.0
    for frame in frames:
        scale *= frame.scale
    return widened if scale == 1.0 else Scaled(widened, scale)


def _plated_shape(
    batch: tuple[int, ...], frames: tuple[PlateFrame, ...], address: str, source: Source
) -> tuple[int, ...]:
    rank = max(len(batch), *(-frame.dim for frame in frames))
    shape = [1] * (rank - len(batch)) + list(batch)
    for frame in frames:
        if shape[frame.dim] not in (1, frame.subsample_size):
            raise ShapeError(
                f"The site {address!r} at {source} has batch shape {batch}, but the plate {frame.name!r} holds "
                f"{frame.subsample_size} copies in dimension {frame.dim}.\n"
                f"Expected: size 1 or {frame.subsample_size} there. Check the plate's size and the order of nested "
                "plates, or give the plate another `dim`."
            )
        shape[frame.dim] = frame.subsample_size
    return tuple(shape)
