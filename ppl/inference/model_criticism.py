"""How well a model predicts what it has not seen: leave-one-out cross-validation of a posterior, by ArviZ.

Law: the numbers are ArviZ's PSIS-LOO of the pointwise log likelihood of all observed sites together. WAIC is not given:
ArviZ dropped it in favour of PSIS-LOO, which says where it fails (arviz-stats has had none since its first release).

Reference: Vehtari, Gelman, Gabry, "Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC",
Statistics and Computing 27 (2017).
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppl.errors import AddressError, ConvergenceWarning
from ppl.inference.posterior import Posterior
from ppl.inference.summary import element_label

NAMED = 3
TOGETHER = "observations"


def loo(posterior: Posterior, addresses: Sequence[str] | None = None, *, key: Any = 0) -> Any:
    """Expected log predictive density of a new observation, by Pareto-smoothed leave-one-out cross-validation.

    Each element of an observed site's log likelihood is left out in turn, so data must be independent given the
    choices: a site that was made one event (`.to_event`, a multivariate distribution) is one observation. Factors
    count as part of the prior.

    Args:
        posterior: Draws with their program.
        addresses: Which observed sites are left out, element by element; by default all. The others stay.
        key: For resampling a weighted posterior.

    Returns:
        ArviZ's `ELPDData`, with `elpd`, `se`, `p`, and for each observation `elpd_i` and `pareto_k`; it prints as a
        table, and `arviz_stats.compare({"a": loo(a), "b": loo(b)})` compares models of the same data.

    Warns:
        ConvergenceWarning: where Pareto k says that an observation cannot be left out by reweighting.

    Raises:
        AddressError: the posterior's program observes nothing, or not what is named.
        ValueError: there is only one observation, or the posterior has no program.

    Examples:
        >>> import jax.numpy as jnp, ppl, ppl.distributions as dist
        >>> @ppl.model
        ... def normal(y):
        ...     mean = ppl.sample("mean", dist.Normal(0.0, 5.0))
        ...     with ppl.plate("n", y.shape[0]):
        ...         ppl.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> found = loo(ppl.infer(normal(jnp.array([0.5, 1.0, 2.0])), ppl.Importance(4000), key=0))
        >>> int(found.n_data_points), bool(-7 < found.elpd < -3)
        (3, True)
    """
    from arviz_stats.loo import loo as arviz_loo  # on first use: see the docstring of ppl.diagnostics

    tree = posterior.to_arviz(["posterior", "log_likelihood"], key=key)
    columns, labels = _columns(posterior, tree, addresses)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # ArviZ's on Pareto k: ours below names the observations
        found: Any = arviz_loo(_with_log_likelihood(tree, columns), pointwise=True)
    _say_unreliable(np.asarray(found.pareto_k).ravel(), labels, float(found.good_k))
    return found


def _columns(posterior: Posterior, tree: Any, addresses: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """The log likelihood of each observation, (chain, draw, observation), and the observations' labels."""
    sites = [a for a, info in posterior.program.sites.items() if info.kind == "observed"]
    wanted = sites if addresses is None else list(addresses)
    if unknown := [address for address in wanted if address not in sites]:
        raise AddressError(f"{unknown} are not observed.\nThe program's observations: {sites}.")
    variables = dict(zip(sorted(sites), sorted(tree["log_likelihood"].data_vars), strict=True))
    parts, labels = [], []
    for address in wanted:
        terms = tree["log_likelihood"][variables[address]].to_numpy()
        dims = posterior.dims.get(address, ())
        labels += [address + element_label(index, dims[: terms.ndim - 2]) for index in np.ndindex(terms.shape[2:])]
        parts.append(terms.reshape(*terms.shape[:2], -1))
    if len(labels) < 2:
        raise ValueError(
            f"There is one observation in {wanted}, so that nothing can be left out.\n"
            "Fix: let the data be elements of a plate (or of a batch), not one event: leave .to_event(...) out."
        )
    return np.concatenate(parts, axis=2), labels


def _with_log_likelihood(tree: Any, columns: np.ndarray) -> Any:
    import xarray as xr  # on first use: see the docstring of ppl.diagnostics

    likelihood = xr.Dataset({TOGETHER: (("chain", "draw", "observation"), columns)})
    return xr.DataTree.from_dict({"posterior": tree["posterior"].to_dataset(), "log_likelihood": likelihood})


def _say_unreliable(pareto_k: np.ndarray, labels: list[str], largest: float) -> None:
    high = np.flatnonzero(~(pareto_k <= largest))
    if not high.size:
        return
    order = high[np.argsort(-pareto_k[high])]
    worst = ", ".join(f"{labels[i]} ({pareto_k[i]:.2f})" for i in order[:NAMED])
    warnings.warn(
        f"Pareto k above {largest:.2f} for {high.size} of {len(labels)} observations, worst {worst}: the posterior "
        "without them is too far from the one with them, and their part of the estimate is unreliable. Infer without "
        "them to have it exactly, use more draws, or a model with heavier tails.",
        ConvergenceWarning,
        stacklevel=3,
    )
