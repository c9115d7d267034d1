"""What one run of a sampler leaves behind, whoever ran it. Imports no sampler."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Settings(NamedTuple):
    """The same for every sampler."""

    chains: int = 4
    warmup: int = 1000
    draws: int = 1000


class Run(NamedTuple):
    """Draws and gradients.

    Attributes:
        draws: By parameter, shaped (chains, draws, *event), on the model's own scale.
        steps: Leapfrog steps (gradients) of every draw, shaped (chains, draws).
        warmup_steps: Leapfrog steps of all chains' warm-up together; NaN where the sampler does not tell.
    """

    draws: dict[str, np.ndarray]
    steps: np.ndarray
    warmup_steps: float = float("nan")


Sampler = Callable[[int], Run]
"""From a seed to a run; the first call compiles."""


def as_numpy(draws: dict[str, Any]) -> dict[str, np.ndarray]:
    """Draws on the host, which waits for them."""
    return {name: np.asarray(values) for name, values in draws.items()}
