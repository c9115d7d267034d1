"""Simulation-based calibration of a method on a program: choices and data from the program, posteriors by the method.

Law: what is ranked, and what an exact method gives, is said in `ppl.diagnostics.calibration`. The data are arguments of
the conditioned program, so that all replicates use one compilation.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from ppl.diagnostics import calibration
from ppl.diagnostics.calibration import Calibration
from ppl.errors import AddressError, ConvergenceWarning, MeasureError
from ppl.inference.door import infer
from ppl.inference.method import positive
from ppl.inference.population import population
from ppl.inference.posterior import Posterior
from ppl.inference.predictive import addresses_of, without_data
from ppl.semantics.choices import refuse_unbounded
from ppl.semantics.keys import as_key
from ppl.semantics.program import Program
from ppl.semantics.site import SiteInfo

LOG_LIKELIHOOD = "log likelihood"
KEEP = 99


def sbc(
    program: Any,
    method: Any,
    *,
    key: Any,
    observed: Sequence[str] | None = None,
    replicates: int = 100,
    keep: int = KEEP,
    quantities: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None = None,
    **settings: Any,
) -> Calibration:
    """Check a method on a program: draw choices and data, infer from the data, rank the choices among the draws.

    The ranks of every scalar choice, and of the log likelihood, are tested; the latter sees methods that do not look at
    the data. Choices inside branches are not ranked.

    Args:
        program: A model with its arguments bound, with its data or without (`obs=None`).
        method: As for `ppl.infer`.
        key: An int seed or a JAX key.
        observed: The choices to draw as data; by default those that the program observes.
        replicates: How many data sets, each with a run of its own.
        keep: The draws of each run that the truth is ranked among, evenly spaced. They should be nearly independent,
            so take several times as many draws; the result has a note where they are not.
        quantities: What is ranked, a function of the choices and the data by address; by default as above.
        **settings: `chains`, `warmup`, `draws` and so on of `ppl.infer`; `progress=False` for no bars in a terminal.

    Returns:
        A `ppl.diagnostics.calibration.Calibration`: print it, plot it (`ppl.plots.plot_sbc`), or `check()` it.

    Raises:
        AddressError: there are no data to draw, or the method's posterior lacks choices.
        MeasureError: the program has factors, or priors that cannot be drawn from.

    Examples:
        >>> import jax.numpy as jnp, ppl, ppl.distributions as dist, ppl.testing
        >>> @ppl.model
        ... def coin(y):
        ...     fair = ppl.sample("fair", dist.Bernoulli(0.5))
        ...     ppl.sample("y", dist.Binomial(5, jnp.where(fair == 1, 0.5, 0.9)), obs=y)
        >>> found = ppl.testing.sbc(coin(4), ppl.Exact(), key=0, replicates=50, keep=9)
        >>> sorted(found.ranks), found.p_value > 0.01
        (['fair', 'log likelihood'], True)
    """
    joint, data = _joint(program, observed)
    run = _Run(method, keep, dict(settings))
    found = calibration.sbc(
        partial(_simulate, joint, data),
        partial(run.draws, joint),
        key=as_key(key),
        replicates=positive("replicates", replicates),
        quantities=quantities or partial(_quantities, joint, data),
    )
    return dataclasses.replace(found, notes=(*found.notes, *run.notes(replicates)))


@dataclasses.dataclass
class _Run:
    """A method with its settings; counts the runs that warned about their convergence."""

    method: Any
    keep: int
    settings: dict[str, Any]
    warned: int = 0

    def draws(
        self, joint: Program, key: Any, data: dict[str, Array]
    ) -> Mapping[str, Shaped[Array | np.ndarray, "..."]]:
        """Infer from the data; evenly spaced draws."""
        program = joint.condition(data)
        infer_key, keep_key = jax.random.split(key)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            posterior = infer(program, self.method, key=infer_key, check_data=False, **self.settings)
        self.warned += any(issubclass(w.category, ConvergenceWarning) for w in caught)
        for w in caught:
            if not issubclass(w.category, ConvergenceWarning):
                warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
        missing = [a for a in addresses_of(program, "latent") if a not in posterior.draws]
        if missing:
            raise AddressError(
                f"The posterior lacks the choices {missing} of {joint.name!r}, so that the truth cannot be ranked.\n"
                "Fix: let the method keep every choice."
            )
        return thinned(posterior, keep_key, self.keep)

    def notes(self, replicates: int) -> tuple[str, ...]:
        """What the runs said aloud."""
        if not self.warned:
            return ()
        return (f"{self.warned} of {replicates} runs warned that they had not converged.",)


def thinned(posterior: Posterior, key: Any, keep: int) -> Mapping[str, Shaped[Array | np.ndarray, "keep ..."]]:
    """So many draws of a posterior, evenly spaced over all chains; of a weighted one, independent picks.

    Raises:
        ValueError: there are fewer draws than are to be kept.
    """
    if posterior.log_weights is not None:
        return posterior.sample(key, (keep,))
    chains, draws = posterior.shape
    if chains * draws < keep:
        raise ValueError(
            f"SBC ranks the truth among keep={keep} draws, but the posterior has {chains} chains of {draws}.\n"
            f"Fix: more draws (draws={-(-5 * keep // chains)} would let every fifth be kept), or a smaller keep."
        )
    picked = (np.arange(keep) * chains * draws) // keep
    return {a: np.asarray(x).reshape(chains * draws, *x.shape[2:])[picked] for a, x in posterior.draws.items()}


def _joint(program: Any, observed: Sequence[str] | None) -> tuple[Program, tuple[str, ...]]:
    """The program with its data left to be drawn, and the addresses of the data."""
    if not isinstance(program, Program):
        raise TypeError(
            f"sbc needs a Program, got {type(program).__name__}.\nFix: call the model with its arguments first."
        )
    refuse_unbounded(program.staged, "calibration")
    data = tuple(addresses_of(program, "observed") if observed is None else observed)
    joint = without_data(program)
    latent = addresses_of(joint, "latent")
    unknown = [address for address in data if address not in latent]
    if unknown or not data:
        raise AddressError(
            f"sbc must know what the data of {program.name!r} are; observed={list(data)}"
            f"{f', of which {unknown} are no choices of it' if unknown else ''}.\n"
            f"Expected: some of its choices: {latent}."
        )
    fixed = [address for address in addresses_of(program, "observed") if address not in data]
    if fixed or addresses_of(joint, "factor"):
        raise _weighted(joint, fixed or addresses_of(joint, "factor"))
    return joint, data


def _simulate(joint: Program, data: tuple[str, ...], key: Any) -> tuple[dict[str, Array], dict[str, Array]]:
    runs = population(joint, key, 1)
    if abs(float(runs.log_weight[0])) > 1e-3:
        raise _weighted(joint, [])
    drawn = {address: x[0] for address, x in runs.choices.items()}
    return {a: x for a, x in drawn.items() if a not in data}, {a: drawn[a] for a in data}


def _weighted(joint: Program, sites: Sequence[str]) -> MeasureError:
    what = f"the sites {list(sites)} weigh its draws" if sites else "a prior is masked, scaled or improper"
    return MeasureError(
        f"{joint.name!r} cannot be drawn from: {what}, so that simulated choices and data have not its law.\n"
        "Expected: a generative program: no factors, proper priors, and every observation among observed=[...]."
    )


def _quantities(
    joint: Program, data: tuple[str, ...], choices: dict[str, Any], drawn: dict[str, Any]
) -> dict[str, Any]:
    likelihood = joint.condition(drawn).terms(choices).likelihood
    total = sum(jnp.sum(likelihood[address]) for address in data)
    ranked = {a: x for a, x in choices.items() if _is_ranked(joint.sites[a])}
    return ranked | {LOG_LIKELIHOOD: total}


def _is_ranked(info: SiteInfo) -> bool:
    return not info.masked and not jnp.issubdtype(info.dtype, jax.dtypes.prng_key)
