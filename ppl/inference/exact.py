"""`ppl.Exact`: the posterior of a finite program by enumeration. No randomness, no approximation.

Law: `exp(log_weights)` divided by their sum is the posterior mass of each distinct point; the evidence has error zero.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Categorical

from ppl.errors import DegenerateWeightsError
from ppl.inference.data_checks import density_table
from ppl.inference.method import CHAIN_SETTINGS, Settings, refuse
from ppl.inference.population import replayed
from ppl.inference.posterior import EXACT, Evidence, Posterior
from ppl.numerics.weights import has_mass, log_sum_exp
from ppl.semantics.collapse import returned_categories
from ppl.semantics.enumeration import DEFAULT_LIMIT
from ppl.semantics.finite import FiniteMeasure
from ppl.semantics.marginal import SumOut
from ppl.semantics.normalization import Normalized
from ppl.semantics.program import Program
from ppl.typing import PRNGKey


@dataclass(frozen=True)
class Exact:
    """Exact inference on programs whose choices are all finite.

    Args:
        limit: The most rows of the product of supports to make.

    As a method of `ppl.infer` it gives every point of positive mass with its exact log weight; as a method of
    `Program.marginal` it sums finite choices out along the program's structure; as a method of `ppl.collapse` it gives
    the law of a category as a `Categorical`.

    Examples:
        >>> import ppl, ppl.distributions as dist
        >>> from ppl.inference.door import infer
        >>> @ppl.model
        ... def two():
        ...     first = ppl.sample("first", dist.Bernoulli(0.25))
        ...     ppl.sample("second", dist.Bernoulli(0.5), obs=first)
        >>> infer(two(), Exact(), key=0).shape
        (1, 2)
    """

    limit: int = DEFAULT_LIMIT

    def run(self, program: Program, key: PRNGKey, settings: Settings) -> Posterior:
        """Enumerate, merge equal points, drop those of mass zero."""
        del key
        refuse(settings, CHAIN_SETTINGS, "ppl.Exact", "Leave them out: the draws are all outcomes.")
        points = distinct_points(program.enumerate(self.limit))
        log_mass = float(np.logaddexp.reduce(points.log_weights, initial=-np.inf))
        if not np.isfinite(log_mass):
            raise _degenerate(program, log_mass, self.limit)
        return _posterior(program, points, log_mass)

    def marginalize(self, program: Program, kept: tuple[str, ...]) -> Any:
        """The exact marginal measure on some addresses (`Program.marginal`)."""
        return SumOut().marginalize(program, kept)

    def normalized(self, program: Program) -> Normalized:
        """The exact law of the choices given the observations (`Program.normalize`)."""
        return Normalized(program, self.limit)

    def collapsed(self, program: Program) -> tuple[Any, Any]:
        """The log mass, and the law of the return value, a category, given the observations (`ppl.collapse`)."""
        count = returned_categories(program)
        measure = program.enumerate(self.limit)
        here = measure.values[:, None] == jnp.arange(count)[None]
        logits = log_sum_exp(jnp.where(here, measure.log_weights[:, None], -jnp.inf).T)
        return measure.log_mass, Categorical(logits=jnp.where(has_mass(logits), logits, 0.0))


def distinct_points(measure: FiniteMeasure) -> FiniteMeasure:
    """The distinct choices (with masks) of positive mass, their masses added, as host arrays; without values."""
    on_choices = FiniteMeasure(measure.log_weights, {"choices": dict(measure.choices), "masks": dict(measure.masks)})
    merged = on_choices.merged()
    alive = merged.log_weights > _negligible(measure.log_weights, merged.log_weights)
    values = jax.tree.map(lambda x: x[alive], merged.values)
    return FiniteMeasure(merged.log_weights[alive], (), values["choices"], values["masks"])


def _negligible(raw: Any, log_weights: np.ndarray) -> float:
    """The log mass up to which a point counts as impossible: NumPyro scores some as the smallest float."""
    smallest = float(np.log(np.finfo(np.asarray(raw).dtype).tiny))
    return float(log_weights.max(initial=-np.inf)) + 0.95 * smallest


def _posterior(program: Program, points: FiniteMeasure, log_mass: float) -> Posterior:
    runs = replayed(program, {a: jnp.asarray(x) for a, x in points.choices.items()})
    dtype = np.dtype(jnp.result_type(float))
    log_weights = np.asarray(points.log_weights, dtype)[None]
    return Posterior(
        draws={a: x[None] for a, x in runs.choices.items()},
        masks={a: x[None] for a, x in runs.masks.items()},
        values=jax.tree.map(lambda x: x[None], runs.value),
        deterministic={a: x[None] for a, x in runs.deterministic.items()},
        log_weights=log_weights,
        log_evidence=Evidence(log_mass, 0.0),
        stats={"log_density": log_weights},
        diagnostics={"points": float(log_weights.size)},
        program=program,
        method=EXACT,
    )


def _degenerate(program: Program, log_mass: float, limit: int) -> DegenerateWeightsError:
    first = jax.tree.map(lambda x: x[0], program.enumerate(limit).choices)
    return DegenerateWeightsError(
        f"The program {program.name!r} has log mass {log_mass} over all its outcomes: there is no posterior.\n"
        f"Log density by site at its first outcome:\n{density_table(program, first)}\n"
        "Likely causes: an observation that no choice explains, a factor of minus infinity, or a density that is NaN."
    )
