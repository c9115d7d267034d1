"""What the methods that move an unconstrained vector (`ppl.NUTS`, `ppl.HMC`, `ppl.MAMS`) have in common.

Their settings are checked, their lengths and metrics planned, the data looked at, and what they visited made a
posterior in the same way; how a vector moves is their own business.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppl.inference.advice import mcmc_notes, say
from ppl.inference.data_checks import DRAWS, check_observations
from ppl.inference.finish import Finished, inspect_at
from ppl.inference.flat import Flat
from ppl.inference.initial import Starts
from ppl.inference.method import Settings
from ppl.inference.posterior import Posterior
from ppl.inference.summed import Summed
from ppl.semantics.choices import latent_infos
from ppl.semantics.program import Program
from ppl.typing import PRNGKey

METRICS = ("low_rank", "diagonal", "dense")
CAPACITY = 64
"""The most directions of a low-rank metric."""
KINDS = {"steps": np.int32, "tree_depth": np.int32, "diverging": bool, "max_tree_depth_reached": bool}
"""The dtypes of recorded numbers that are not floats."""


def target_of(program: Program) -> Any:
    """The program's continuous choices as a vector; its finite choices, if any, are summed out."""
    discrete = [i for i in latent_infos(program.staged).values() if not np.issubdtype(i.dtype, np.floating)]
    return Summed(program) if discrete else Flat(program)


def check_tuning(target_acceptance: float, metric: str) -> None:
    """Raise a `ValueError` where the tuning of a method means nothing."""
    if not 0 < target_acceptance < 1:
        raise ValueError(f"target_acceptance is {target_acceptance}.\nExpected: a number between 0 and 1.")
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}.\nExpected: one of {', '.join(map(repr, METRICS))}.")


def capacity_of(metric: str, dim: int, adaptation: Any) -> int:
    """How many directions a metric has room for: those of an earlier run, or as its kind says."""
    if adaptation is not None:
        return adaptation.metric.directions.shape[-2]
    return {"diagonal": 0, "low_rank": min(dim, CAPACITY), "dense": dim}[metric]


def lengths(settings: Settings, warmup: int, draws: int) -> dict[str, int]:
    """Warm-up, draws and thinning: what the user asked for, else the method's defaults."""
    defaults = {"warmup": warmup, "draws": draws, "thin": 1}
    return {n: default if getattr(settings, n) is None else getattr(settings, n) for n, default in defaults.items()}


def look_at_data(program: Program, starts: Starts, key: PRNGKey) -> None:
    """Look at the observations at the first tries of 16 chains."""
    check_observations(program, inspect_at(starts.target, starts.many(DRAWS)), key)


def named_stats(columns: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Recorded numbers (chain, draw, column) by name, in their dtypes."""
    return {name: columns[..., i].astype(KINDS.get(name, columns.dtype)) for i, name in enumerate(names)}


def told_posterior(
    target: Any,
    finished: Finished,
    stats: dict[str, np.ndarray],
    diagnostics: dict[str, float],
    method: str,
    continuation: Any,
) -> Posterior:
    """The posterior of a run, which says aloud what is wrong with it."""
    posterior = Posterior(
        **finished._asdict(),
        stats=dict(stats),
        diagnostics=diagnostics,
        program=target.program,
        method=method,
        continuation=continuation,
        remarks=(target.note,) if target.note else (),
    )
    say(mcmc_notes(posterior, getattr(target, "finite", ())), f"{method} on {target.program.name!r}")
    return posterior
