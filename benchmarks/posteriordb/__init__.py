"""The sixteen posteriors with reference draws, as ordinary models, and what it takes to compare with the reference.

A model's addresses are the reference's parameter names, so `flatten` only has to number the elements of vectors.

    python -m benchmarks.posteriordb --folder PATH        runs ppl.NUTS() on all and prints a table of agreement
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from benchmarks.posteriordb import hierarchical, labels, regressions, series
from benchmarks.posteriordb.agreement import Agreement, agreement
from benchmarks.targets import ARGUMENTS, Data, load_data, load_reference
from ppl.semantics.model import Model
from ppl.semantics.program import Program

__all__ = ["POSTERIORS", "Agreement", "Entry", "agreement", "flatten", "load_data", "load_reference"]


class Entry(NamedTuple):
    """A posterior: its name, its model, and, where the model is a sum over labels, the model with the labels."""

    name: str
    model: Model
    with_labels: Model | None = None

    def program(self, data: Data, *, labels: bool = False) -> Program:
        """The model with data bound, floats in JAX's default precision; `labels=True` for the one with its labels."""
        model = self.with_labels if labels and self.with_labels is not None else self.model
        return model(*(jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in ARGUMENTS[self.name](data)))


def flatten(arrays: Mapping[str, Any], names: Any) -> dict[str, np.ndarray]:
    """Draws by the reference's parameter names.

    Args:
        arrays: Draws by address, shaped (chains, draws, *event), such as `posterior.arrays`.
        names: The reference's names: `mu`, or `beta[2]` for the second element (from 1) of `beta`.

    Returns:
        Arrays of shape (chains, draws).
    """

    def one(name: str) -> np.ndarray:
        address, _, index = name.partition("[")
        draws = np.asarray(arrays[address], np.float64)
        return draws[..., int(index[:-1]) - 1] if index else draws

    return {name: one(name) for name in names}


_MODELS: dict[str, tuple[Model, Model | None]] = {
    "eight_schools-eight_schools_noncentered": (hierarchical.eight_schools, None),
    "arK-arK": (series.autoregressive, None),
    "arma-arma11": (series.arma, None),
    "earnings-logearn_interaction": (regressions.earnings, None),
    "kidiq-kidscore_momiq": (regressions.kid_score, None),
    "kidiq_with_mom_work-kidscore_interaction_c": (regressions.kid_score_interaction, None),
    "mesquite-logmesquite_logvash": (regressions.mesquite, None),
    "garch-garch11": (series.garch, None),
    "gp_pois_regr-gp_regr": (hierarchical.gaussian_process, None),
    "hmm_example-hmm_example": (labels.hmm_summed, labels.hmm),
    "low_dim_gauss_mix-low_dim_gauss_mix": (labels.mixture_summed, labels.mixture),
    "nes1972-nes": (regressions.party, None),
    "sblrc-blr": (regressions.blr, None),
    "kilpisjarvi_mod-kilpisjarvi": (regressions.kilpisjarvi, None),
    "bball_drive_event_0-hmm_drive_0": (labels.drive_summed, labels.drive),
    "diamonds-diamonds": (regressions.diamonds, None),
}
POSTERIORS: dict[str, Entry] = {name: Entry(name, *models) for name, models in _MODELS.items()}
