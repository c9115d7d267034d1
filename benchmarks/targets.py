"""Data of the targets that the samplers are compared on, as arguments of the models. Imports no sampler.

The sixteen posteriors are read from a folder laid out as posteriordb; two Gaussians and a logistic regression are made
here from fixed seeds. `ARGUMENTS[name](data)` turns a posterior's data into the positional arguments of its model.
"""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Data = dict[str, Any]
DRAWS = "posterior_database/reference_posteriors/draws/draws"


def folder_of(folder: str | None = None) -> Path:
    """The folder of posteriordb: the argument, else the environment variable POSTERIORDB."""
    chosen = folder or os.environ.get("POSTERIORDB")
    if not chosen:
        raise FileNotFoundError(
            "No folder of posteriordb was given.\nFix: --folder PATH, or the environment variable POSTERIORDB; a clone "
            "of https://github.com/stan-dev/posteriordb has the layout."
        )
    return Path(chosen)


def load_data(folder: str | None, name: str) -> Data:
    """The data of a posterior by its full name, such as `arK-arK`."""
    root = folder_of(folder)
    record = json.loads((root / "posterior_database/posteriors" / f"{name}.json").read_text())
    return _unzipped(root / "posterior_database/data/data" / f"{record['data_name']}.json.zip")


def load_reference(folder: str | None, name: str) -> dict[str, np.ndarray]:
    """Reference draws by parameter name (`beta[1]`), each of shape (10 chains, 1000 draws)."""
    chains = _unzipped(folder_of(folder) / DRAWS / f"{name}.json.zip")
    return {parameter: np.array([chain[parameter] for chain in chains]) for parameter in chains[0]}


def _unzipped(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(archive.namelist()[0]))


def columns(*names: str) -> Callable[[Data], tuple[Any, ...]]:
    """Arguments that are columns of the data, as they are."""
    return lambda data: tuple(np.asarray(data[name], float) for name in names)


def _earnings(data: Data) -> tuple[Any, ...]:
    height, male, earn = columns("height", "male", "earn")(data)
    return height, male, np.log(earn)


def _mesquite(data: Data) -> tuple[Any, ...]:
    one, two, canopy = columns("diam1", "diam2", "canopy_height")(data)
    height, group, weight = columns("total_height", "group", "weight")(data)
    logs = [np.log(x) for x in (one * two * canopy, one * two, one / two, height)]
    return *logs, group, np.log(weight)


def _party(data: Data) -> tuple[Any, ...]:
    ideology, race, age, education, gender, income, partyid = columns(
        "real_ideo", "race_adj", "age_discrete", "educ1", "gender", "income", "partyid7"
    )(data)
    ages = [(age == group).astype(float) for group in (2, 3, 4)]
    return np.stack([np.ones(len(age)), ideology, race, *ages, education, gender, income], axis=1), partyid


def _kilpisjarvi(data: Data) -> tuple[Any, ...]:
    x, y = columns("x", "y")(data)
    priors = [(float(data[f"pmu{which}"]), float(data[f"ps{which}"])) for which in ("alpha", "beta")]
    return x, y, *(np.array(prior) for prior in priors)


def _diamonds(data: Data) -> tuple[Any, ...]:
    return np.asarray(data["X"], float)[:, 1:], np.asarray(data["Y"], float)


ARGUMENTS: dict[str, Callable[[Data], tuple[Any, ...]]] = {
    "eight_schools-eight_schools_noncentered": columns("sigma", "y"),
    "arK-arK": lambda data: (*columns("y")(data), int(data["K"])),
    "arma-arma11": columns("y"),
    "earnings-logearn_interaction": _earnings,
    "kidiq-kidscore_momiq": columns("mom_iq", "kid_score"),
    "kidiq_with_mom_work-kidscore_interaction_c": columns("mom_hs", "mom_iq", "kid_score"),
    "mesquite-logmesquite_logvash": _mesquite,
    "garch-garch11": columns("y", "sigma1"),
    "gp_pois_regr-gp_regr": columns("x", "y"),
    "hmm_example-hmm_example": columns("y"),
    "low_dim_gauss_mix-low_dim_gauss_mix": columns("y"),
    "nes1972-nes": _party,
    "sblrc-blr": columns("X", "y"),
    "kilpisjarvi_mod-kilpisjarvi": _kilpisjarvi,
    "bball_drive_event_0-hmm_drive_0": columns("u", "v", "alpha"),
    "diamonds-diamonds": _diamonds,
}


# --- targets without a folder ----------------------------------------------------------------------------------------

DIM, ROWS, COLUMNS = 100, 1000, 20


def _correlated() -> tuple[Any, ...]:
    """The Cholesky factor of correlations 0.9^|i - j|, inverted."""
    index = np.arange(DIM)
    covariance = 0.9 ** np.abs(index[:, None] - index[None, :])
    return (np.linalg.cholesky(np.linalg.inv(covariance)).T.copy(),)


def _ill_conditioned() -> tuple[Any, ...]:
    """A square root of a precision matrix with eigenvalues from 1e-2 to 1e2 in random directions (condition 1e4)."""
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))
    return (np.logspace(-1.0, 1.0, DIM)[:, None] * axes.T,)


def _logistic() -> tuple[Any, ...]:
    """A thousand labels from a logistic regression on twenty standard normal columns."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ROWS, COLUMNS))
    probability = 1.0 / (1.0 + np.exp(-x @ rng.normal(size=COLUMNS)))
    return x, (rng.uniform(size=ROWS) < probability).astype(np.int32)


SYNTHETIC: dict[str, Callable[[], tuple[Any, ...]]] = {
    "gaussian-100-correlated": _correlated,
    "gaussian-100-condition-1e4": _ill_conditioned,
    "logistic-1000x20": _logistic,
}
TARGETS: tuple[str, ...] = (*ARGUMENTS, *SYNTHETIC)


def arguments(name: str, folder: str | None = None) -> tuple[Any, ...]:
    """The positional arguments of a target's model: float32 and int32 NumPy arrays, and static integers."""
    raw = SYNTHETIC[name]() if name in SYNTHETIC else ARGUMENTS[name](load_data(folder, name))
    return tuple(x.astype(np.float32) if getattr(x, "dtype", None) == np.float64 else x for x in raw)
