"""The scalars of a posterior, numbered through: labels, and their draws as one matrix."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ppl.inference.summary import element_label


@runtime_checkable
class Drawn(Protocol):
    """What is read of a `ppl.Posterior`, which itself needs these diagnostics."""

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of chains and of draws in each."""
        ...

    @property
    def arrays(self) -> Mapping[str, Any]:
        """Choices and deterministic values by address, with leading axes (chain, draw)."""
        ...

    @property
    def dims(self) -> Mapping[str, tuple[str | None, ...]]:
        """Names of the axes after (chain, draw)."""
        ...

    @property
    def draws(self) -> Mapping[str, Any]:
        """Choices alone."""
        ...

    @property
    def masks(self) -> Mapping[str, Any]:
        """For choices inside branches, whether they were made."""
        ...

    @property
    def stats(self) -> Mapping[str, Any]:
        """Numbers recorded with each draw."""
        ...

    @property
    def log_weights(self) -> Any:
        """None where draws are equally weighted."""
        ...

    @property
    def program(self) -> Any:
        """The program it came from, if known."""
        ...


@dataclass(frozen=True, eq=False)
class Scalars:
    """Numeric choices and deterministic values that every draw makes, element by element.

    Attributes:
        arrays: by address, with the elements flat: (chains, draws, elements).
        shapes: the shape of each site.
        dims: the names of its axes.
    """

    arrays: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]
    dims: dict[str, tuple[str | None, ...]]

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(x.shape[2] for x in self.arrays.values())

    def matrix(self, index: np.ndarray | None = None) -> Float[np.ndarray, "chains draws scalars"]:
        """Their draws, in floating point; of some of them by number."""
        if index is None:
            parts = [x if x.dtype.kind == "f" else x.astype(np.float64) for x in self.arrays.values()]
            return np.concatenate(parts, axis=2)
        picked = [self._place(int(i)) for i in index]
        shape = next(iter(self.arrays.values())).shape[:2]
        columns = [self.arrays[address][..., element].astype(np.float64) for address, element in picked]
        return np.stack(columns, axis=2) if columns else np.zeros((*shape, 0))

    def label(self, index: int | np.integer) -> str:
        """Address and index, such as `theta[school=3]`."""
        address, element = self._place(int(index))
        shape = self.shapes[address]
        where = tuple(int(i) for i in np.unravel_index(element, shape)) if shape else ()
        return address + element_label(where, self.dims.get(address, ()))

    def address(self, index: int | np.integer) -> str:
        """The address of one of them."""
        return self._place(int(index))[0]

    def _place(self, index: int) -> tuple[str, int]:
        for address, x in self.arrays.items():
            if index < x.shape[2]:
                return address, index
            index -= x.shape[2]
        raise IndexError(f"There are {self.count} scalars.")


def scalars_of(posterior: Drawn) -> Scalars:
    """The scalars of a posterior; sites that some draws do not make, and values that are no numbers, are left out."""
    arrays, shapes = {}, {}
    for address, x in posterior.arrays.items():
        mask = posterior.masks.get(address)
        if str(x.dtype).startswith("key") or (mask is not None and not np.asarray(mask).all()):
            continue
        host = np.asarray(x)
        host = host.astype(np.float32) if host.dtype.kind not in "biuf" else host
        arrays[address] = host.reshape(*host.shape[:2], -1)
        shapes[address] = host.shape[2:]
    return Scalars(arrays, shapes, dict(posterior.dims))
