"""Our side of the comparison: `ppl.infer(program, ppl.NUTS(), ...)`, as a user would write it."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import ppl
from benchmarks.posteriordb import POSTERIORS
from benchmarks.run_record import Run, Sampler, Settings, as_numpy
from benchmarks.synthetic import SYNTHETIC
from ppl.semantics.model import Model


def model_of(target: str) -> Model:
    """The model of a target by name."""
    return SYNTHETIC[target] if target in SYNTHETIC else POSTERIORS[target].model


def sampler(target: str, arguments: tuple[Any, ...], settings: Settings) -> Sampler:
    """NUTS with its default settings."""
    program = model_of(target)(*(jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in arguments))

    def run(seed: int) -> Run:
        posterior = ppl.infer(program, ppl.NUTS(), key=seed, **settings._asdict())
        warmup_steps = float(posterior.diagnostics.get("warmup_steps", float("nan")))
        return Run(as_numpy(posterior.arrays), np.asarray(posterior.stats["steps"]), warmup_steps)

    return run
