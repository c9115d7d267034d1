"""`ppl.infer`: the one door from a program to a posterior. It looks at the data, then lets the method run."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ppl.inference import data_checks
from ppl.inference.method import Method, Settings, positive
from ppl.inference.posterior import Posterior
from ppl.semantics.keys import as_key
from ppl.semantics.program import Program
from ppl.semantics.staging import unknown_address

_CHECKS = 0x64617461
LAYOUTS = (None, "threads", "vmap", "devices")


def infer(
    program: Any,
    method: Any,
    *,
    key: Any,
    chains: int | None = None,
    warmup: int | None = None,
    draws: int | None = None,
    thin: int | None = None,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    keep: Sequence[str] | Callable[[dict[str, Any]], Any] | None = None,
    layout: str | None = None,
    check_data: bool = True,
) -> Posterior:
    """Infer the posterior: the program's measure divided by its mass.

    Args:
        program: A model with its arguments bound.
        method: How: `ppl.NUTS()`, `ppl.Importance(...)`, `ppl.Exact()`, `ppl.MH()`, ..., or any object with a method
            `run(program, key, settings)`.
        key: An int seed or a JAX key; the same key gives the same posterior.
        chains: Number of independent chains, for methods that run chains.
        warmup: Draws of each chain that are thrown away.
        draws: Draws kept of each chain.
        thin: Steps of a chain for each draw kept.
        progress: Whether to show a progress bar; by default where the output is a terminal or a notebook.
        checkpoint: A file to which the chains are saved from time to time. Where it exists, the run goes on from it,
            bit for bit as if it had not been interrupted.
        keep: The addresses to keep (memory), or a function of a draw's choices whose value is kept in their place.
        layout: How chains are laid out: "threads" (one chain each), "vmap" (side by side), "devices" (side by side on
            each). By default threads on a CPU, else devices.
        check_data: Whether to look at the observations first, at 16 prior draws or starts.

    Returns:
        A `Posterior`.

    Raises:
        NaNError, SupportError: the data cannot be meant as they are; the message names site, line and index.
        DegenerateWeightsError: no draw has a positive weight; the message holds the log density by site.

    Examples:
        >>> import jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> from ppl.inference.door import infer
        >>> from ppl.inference.exact import Exact
        >>> @ppl.model
        ... def coin(y):
        ...     fair = ppl.sample("fair", dist.Bernoulli(0.5))
        ...     ppl.sample("y", dist.Bernoulli(jnp.where(fair == 1, 0.5, 0.9)).expand([3]).to_event(1), obs=y)
        >>> posterior = infer(coin(jnp.array([1, 1, 0])), Exact(), key=0)
        >>> posterior.draws["fair"].tolist(), round(float(jnp.exp(posterior.log_evidence.estimate)), 4)
        ([[0, 1]], 0.103)
    """
    _check_arguments(program, method)
    settings = Settings(
        None if chains is None else positive("chains", chains),
        None if warmup is None else positive("warmup", warmup, least=0),
        None if draws is None else positive("draws", draws),
        None if thin is None else positive("thin", thin),
        progress,
        checkpoint,
        keep if keep is None or callable(keep) else _addresses(keep, program),
        layout if layout in LAYOUTS else _no_layout(layout),
        check_data,
    )
    run_key = as_key(key)
    if check_data and not getattr(method, "checks_data", False):
        data_checks.check_data(program, jax.random.fold_in(run_key, _CHECKS))
    return method.run(program, run_key, settings)


def _check_arguments(program: Any, method: Any) -> None:
    if not isinstance(program, Program):
        raise TypeError(
            f"ppl.infer needs a Program, got {type(program).__name__}.\n"
            "Fix: call the model with its arguments first: ppl.infer(model(data), method, key=0)."
        )
    if isinstance(method, type) or not isinstance(method, Method):
        name = method.__name__ if isinstance(method, type) else type(method).__name__
        raise TypeError(
            f"ppl.infer was given {name} as its method.\n"
            "Expected: an object with `run(program, key, settings)`, such as ppl.Importance(10_000) or ppl.MH()."
        )


def _addresses(keep: Any, program: Program) -> tuple[str, ...]:
    """The addresses to keep, each of which the program has as a choice or a deterministic value."""
    names = (keep,) if isinstance(keep, str) else tuple(keep)
    kept = {a: i for a, i in program.sites.items() if i.kind in ("latent", "deterministic")}
    for name in names:
        if name not in kept:
            raise unknown_address(name, kept, "keep")
    return names


def _no_layout(layout: Any) -> Any:
    raise ValueError(f"layout is {layout!r}.\nExpected: one of {', '.join(map(repr, LAYOUTS))}.")
