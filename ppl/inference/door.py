"""`ppl.infer`: the one door from a program to a posterior. It looks at the data, then lets the method run."""

from typing import Any

import jax

from ppl.inference import data_checks
from ppl.inference.method import Method, Settings, positive
from ppl.inference.posterior import Posterior
from ppl.semantics.keys import as_key
from ppl.semantics.program import Program

_CHECKS = 0x64617461


def infer(
    program: Any,
    method: Any,
    *,
    key: Any,
    chains: int | None = None,
    warmup: int | None = None,
    draws: int | None = None,
    check_data: bool = True,
) -> Posterior:
    """Infer the posterior: the program's measure divided by its mass.

    Args:
        program: A model with its arguments bound.
        method: How: `ppl.Importance(...)`, `ppl.Exact()`, `ppl.MH()`, or any object with a method
            `run(program, key, settings)`.
        key: An int seed or a JAX key; the same key gives the same posterior.
        chains: Number of independent chains, for methods that run chains.
        warmup: Draws of each chain that are thrown away.
        draws: Draws kept of each chain.
        check_data: Whether to look at the observations first, on 16 prior draws.

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
    )
    run_key = as_key(key)
    if check_data:
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
