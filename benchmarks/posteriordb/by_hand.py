"""The log densities of the sixteen posteriors once more, in NumPy and SciPy on float64: what the models are checked on.

Each takes the constrained parameters by address and the raw data, and is right up to a constant. Labels are summed out
by plain loops.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import logsumexp

Parameters = dict[str, Any]
Data = dict[str, Any]
normal = stats.norm.logpdf


def _columns(data: Data, *names: str) -> list[np.ndarray]:
    return [np.asarray(data[name], float) for name in names]


def eight_schools(p: Parameters, data: Data) -> float:
    theta = p["mu"] + p["tau"] * p["theta_trans"]
    prior = normal(p["mu"], 0, 5) + stats.halfcauchy.logpdf(p["tau"], scale=5) + normal(p["theta_trans"]).sum()
    return prior + normal(data["y"], theta, data["sigma"]).sum()


def ark(p: Parameters, data: Data) -> float:
    y, order = np.asarray(data["y"]), data["K"]
    total = normal(p["alpha"], 0, 10) + normal(p["beta"], 0, 10).sum() + stats.halfcauchy.logpdf(p["sigma"], scale=2.5)
    for t in range(order, len(y)):
        mean = p["alpha"] + sum(p["beta"][k - 1] * y[t - k] for k in range(1, order + 1))
        total += normal(y[t], mean, p["sigma"])
    return total


def arma(p: Parameters, data: Data) -> float:
    y = data["y"]
    total = normal(p["mu"], 0, 10) + normal(p["phi"], 0, 2) + normal(p["theta"], 0, 2)
    total += stats.halfcauchy.logpdf(p["sigma"], scale=2.5)
    error = y[0] - (p["mu"] + p["phi"] * p["mu"])
    total += normal(error, 0, p["sigma"])
    for t in range(1, len(y)):
        error = y[t] - (p["mu"] + p["phi"] * y[t - 1] + p["theta"] * error)
        total += normal(error, 0, p["sigma"])
    return total


def earnings(p: Parameters, data: Data) -> float:
    height, male, earn = _columns(data, "height", "male", "earn")
    x = np.stack([np.ones(len(height)), height, male, height * male], axis=1)
    return normal(np.log(earn), x @ p["beta"], p["sigma"]).sum()


def kid_score(p: Parameters, data: Data) -> float:
    mean = p["beta"][0] + p["beta"][1] * np.asarray(data["mom_iq"])
    return stats.halfcauchy.logpdf(p["sigma"], scale=2.5) + normal(data["kid_score"], mean, p["sigma"]).sum()


def kid_score_interaction(p: Parameters, data: Data) -> float:
    h, q = (x - x.mean() for x in _columns(data, "mom_hs", "mom_iq"))
    x = np.stack([np.ones(len(h)), h, q, h * q], axis=1)
    return normal(data["kid_score"], x @ p["beta"], p["sigma"]).sum()


def mesquite(p: Parameters, data: Data) -> float:
    d1, d2, canopy, total, group = _columns(data, "diam1", "diam2", "canopy_height", "total_height", "group")
    x = [np.ones(len(d1)), np.log(d1 * d2 * canopy), np.log(d1 * d2), np.log(d1 / d2), np.log(total), group]
    return normal(np.log(data["weight"]), np.stack(x, axis=1) @ p["beta"], p["sigma"]).sum()


def garch(p: Parameters, data: Data) -> float:
    y, s = data["y"], data["sigma1"]
    inside = p["alpha0"] > 0 and 0 < p["alpha1"] < 1 and 0 < p["beta1"] < 1 - p["alpha1"]
    total = normal(y[0], p["mu"], s) if inside else -np.inf
    for t in range(1, len(y)):
        s = np.sqrt(p["alpha0"] + p["alpha1"] * (y[t - 1] - p["mu"]) ** 2 + p["beta1"] * s**2)
        total += normal(y[t], p["mu"], s)
    return total


def gaussian_process(p: Parameters, data: Data) -> float:
    x = np.asarray(data["x"], float)
    kernel = p["alpha"] ** 2 * np.exp(-((x[:, None] - x[None, :]) ** 2) / (2 * p["rho"] ** 2))
    prior = stats.gamma.logpdf(p["rho"], 25, scale=1 / 4) + stats.halfnorm.logpdf(p["alpha"], scale=2)
    likelihood = stats.multivariate_normal.logpdf(data["y"], np.zeros(len(x)), kernel + p["sigma"] * np.eye(len(x)))
    return prior + stats.halfnorm.logpdf(p["sigma"], scale=1) + likelihood


def _hidden(transition: np.ndarray, log_likelihood: np.ndarray) -> float:
    """The forward algorithm in log space, states by name."""
    gamma = log_likelihood[0]
    for now in log_likelihood[1:]:
        gamma = np.array([logsumexp(gamma + np.log(transition[:, k])) + now[k] for k in range(2)])
    return logsumexp(gamma)


def hmm(p: Parameters, data: Data) -> float:
    prior = normal(p["mu"][0], 3, 1) + normal(p["mu"][1], 10, 1)
    log_likelihood = np.stack([normal(data["y"], p["mu"][k], 1) for k in range(2)], axis=1)
    return prior + _hidden(np.stack([p["theta1"], p["theta2"]]), log_likelihood)


def mixture(p: Parameters, data: Data) -> float:
    prior = normal(p["mu"], 0, 2).sum() + stats.halfnorm.logpdf(p["sigma"], scale=2).sum()
    first = np.log(p["theta"]) + normal(data["y"], p["mu"][0], p["sigma"][0])
    second = np.log1p(-p["theta"]) + normal(data["y"], p["mu"][1], p["sigma"][1])
    return prior + stats.beta.logpdf(p["theta"], 5, 5) + np.logaddexp(first, second).sum()


def party(p: Parameters, data: Data) -> float:
    ideology, race, age, education, gender, income = _columns(
        data, "real_ideo", "race_adj", "age_discrete", "educ1", "gender", "income"
    )
    b = p["beta"]
    mean = b[0] + b[1] * ideology + b[2] * race + b[3] * (age == 2) + b[4] * (age == 3) + b[5] * (age == 4)
    mean = mean + b[6] * education + b[7] * gender + b[8] * income
    return normal(data["partyid7"], mean, p["sigma"]).sum()


def blr(p: Parameters, data: Data) -> float:
    prior = normal(p["beta"], 0, 10).sum() + stats.halfnorm.logpdf(p["sigma"], scale=10)
    return prior + normal(data["y"], np.asarray(data["X"]) @ p["beta"], p["sigma"]).sum()


def kilpisjarvi(p: Parameters, data: Data) -> float:
    prior = normal(p["alpha"], data["pmualpha"], data["psalpha"]) + normal(p["beta"], data["pmubeta"], data["psbeta"])
    return prior + normal(data["y"], p["alpha"] + p["beta"] * np.asarray(data["x"]), p["sigma"]).sum()


def drive(p: Parameters, data: Data) -> float:
    u, v = _columns(data, "u", "v")
    prior = stats.dirichlet.logpdf(p["theta1"], data["alpha"][0]) + stats.dirichlet.logpdf(
        p["theta2"], data["alpha"][1]
    )
    for rate in (p["phi"], p["lambda"]):
        prior += normal(rate[0], 0, 1) + normal(rate[1], 3, 1)
    both = [
        stats.expon.logpdf(u, scale=1 / p["phi"][k]) + stats.expon.logpdf(v, scale=1 / p["lambda"][k]) for k in (0, 1)
    ]
    return prior + _hidden(np.stack([p["theta1"], p["theta2"]]), np.stack(both, axis=1))


def diamonds(p: Parameters, data: Data) -> float:
    x = np.asarray(data["X"])[:, 1:]
    prior = normal(p["b"]).sum() + stats.t.logpdf(p["Intercept"], 3, 8, 10) + stats.t.logpdf(p["sigma"], 3, 0, 10)
    return prior + normal(data["Y"], p["Intercept"] + (x - x.mean(axis=0)) @ p["b"], p["sigma"]).sum()


BY_HAND: dict[str, Callable[[Parameters, Data], float]] = {
    "eight_schools-eight_schools_noncentered": eight_schools,
    "arK-arK": ark,
    "arma-arma11": arma,
    "earnings-logearn_interaction": earnings,
    "kidiq-kidscore_momiq": kid_score,
    "kidiq_with_mom_work-kidscore_interaction_c": kid_score_interaction,
    "mesquite-logmesquite_logvash": mesquite,
    "garch-garch11": garch,
    "gp_pois_regr-gp_regr": gaussian_process,
    "hmm_example-hmm_example": hmm,
    "low_dim_gauss_mix-low_dim_gauss_mix": mixture,
    "nes1972-nes": party,
    "sblrc-blr": blr,
    "kilpisjarvi_mod-kilpisjarvi": kilpisjarvi,
    "bball_drive_event_0-hmm_drive_0": drive,
    "diamonds-diamonds": diamonds,
}
