"""What is known of a site before the program runs: its address, its place in the user's source, its plates.

A `Site` is a static, hashable parameter of the `sample`, `factor` and `deterministic` equations.
"""

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpyro

_LIBRARIES = ("jax", "jaxlib", "jaxtyping", "beartype", "equinox", "numpyro")
_SKIPPED = (
    f"{Path(__file__).resolve().parent.parent}{os.sep}",
    *(f"{Path(str(module.__file__)).parent.parent / name}{os.sep}" for module in (jax, numpyro) for name in _LIBRARIES),
    "<frozen",
    "<@beartype",
)
_PLUMBING = (f"{os.sep}functools.py", f"{os.sep}contextlib.py")


SAMPLED = ("latent", "observed", "fixed")
"""The kinds of `sample` sites."""
WEIGHING = ("observed", "fixed", "factor")
"""The kinds of sites that weigh a trace beyond the law of its own draws."""


class Source(NamedTuple):
    """A line of the user's source."""

    file: str
    line: int

    def __str__(self) -> str:
        """`file.py:12`, with the file's name alone."""
        return f"{Path(self.file).name}:{self.line}"


class PlateFrame(NamedTuple):
    """One active `ppl.plate`: the batch dimension `dim` (negative) holds `size` independent copies."""

    name: str
    size: int
    subsample_size: int
    dim: int

    @property
    def scale(self) -> float:
        """The factor by which a subsample's log densities stand for those of the whole plate."""
        return self.size / self.subsample_size


class Site(NamedTuple):
    """The static description of one site.

    `kind` is `"latent"`, `"observed"`, `"fixed"` (a latent choice whose value was substituted), `"factor"` or
    `"deterministic"`; `plates` are the plates around it; `grad` is the gradient strategy, uninterpreted here;
    `event_rank` is the number of trailing axes of a recorded value that are no batch (a choice's is in its
    `Signature`).
    """

    address: str
    kind: str
    source: Source
    plates: tuple[PlateFrame, ...] = ()
    grad: Any = None
    event_rank: int = 0

    def __repr__(self) -> str:
        """Address, kind and line: what a printed jaxpr shows."""
        plates = "".join(f" in {frame.name}" for frame in self.plates)
        return f"{self.address!r} {self.kind}{plates} @ {self.source}"


class Signature(NamedTuple):
    """The static part of a `sample` equation's measure and value.

    The first `num_leaves` operands are the leaves of the measure (`measure_tree`); the rest, where the site is
    observed, those of the value (`value_tree`, `avals`). `event_rank` is the number of trailing axes of the value
    that are no batch.
    """

    name: str
    measure_tree: Any
    num_leaves: int
    value_tree: Any
    avals: tuple[Any, ...]
    event_rank: int

    def __repr__(self) -> str:
        """The distribution's name: what a printed jaxpr shows."""
        return self.name


class SiteInfo(NamedTuple):
    """What `Program.sites` tells of a site.

    `shape` includes the leading axes of loops and lanes; `dims` names the axes that come from plates (None elsewhere);
    `masked` says that the site lies inside a branch; `unbounded` that it lies inside a `while_loop`.
    """

    address: str
    kind: str
    shape: tuple[int, ...]
    dtype: Any
    dims: tuple[str | None, ...]
    distribution: str
    source: str
    masked: bool = False
    unbounded: bool = False


def user_source() -> Source:
    """The nearest line on the stack that belongs neither to this package nor to JAX or NumPyro."""
    frame = sys._getframe(1)
    while frame.f_back is not None and is_library_file(frame.f_code.co_filename):
        frame = frame.f_back
    return Source(frame.f_code.co_filename, frame.f_lineno)


def is_library_file(filename: str) -> bool:
    """Whether a file belongs to this package, JAX, NumPyro or their plumbing."""
    return filename.startswith(_SKIPPED) or filename.endswith(_PLUMBING)
