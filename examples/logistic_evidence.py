"""The evidence of logistic regressions, by tempering from the prior, beside values from long runs of other software.

    python examples/logistic_evidence.py [--quick] [pima] [sonar] [eeg]

Each row of the data is a design row (an intercept and scaled predictors) times its response, -1 or 1, so that the
likelihood is the product of sigmoid(row . beta); the coefficients are N(0, 5^2). The data come from the wheel of
`particles` 0.4, which is downloaded as a file (see particles_data.py). The method takes a random walk for the 9 and 15
coefficients of Pima and EEG, and Hamiltonian moves for the 61 of Sonar: there a random walk moves too little, and the
estimate of 2,000 particles is 1.6 nats too high (with the remark that they have not forgotten where they were). EEG has
14,980 rows and gets a quarter of the particles.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import particles_data

import ppl
import ppl.distributions as dist


class Reference(NamedTuple):
    """A data set, its log evidence as known (nats), and the share of the particles that it gets."""

    load: Callable[[], np.ndarray]
    log_evidence: float
    error: float
    share: float = 1.0


REFERENCES = {
    "pima": Reference(particles_data.pima, -391.4953, 0.0008),
    "sonar": Reference(particles_data.sonar, -124.15, 0.05),
    "eeg": Reference(particles_data.eeg, -9846.247, 0.004, 0.25),
}


@ppl.model
def logistic(signed: Any) -> None:
    """Every response is the sign that the regression is surer of, more often than not."""
    beta = ppl.sample("beta", dist.Normal(0.0, 5.0).expand([signed.shape[1]]).to_event(1))
    ppl.factor("responses", jnp.sum(jax.nn.log_sigmoid(signed @ beta)))


def evidence(name: str, method: ppl.TemperedSMC) -> tuple[ppl.Posterior, float]:
    """Run a method on a data set; the posterior, and seconds with compilation."""
    signed = jnp.asarray(REFERENCES[name].load(), jnp.float32)
    start = time.perf_counter()
    return ppl.infer(logistic(signed), method, key=0), time.perf_counter() - start


def main(*, quick: bool = False, names: tuple[str, ...] = tuple(REFERENCES)) -> dict[str, ppl.Posterior]:
    """Print estimates, errors, references and seconds."""
    particles, found = 1000 if quick else 4000, {}
    print(f"{'data':<8} {'log evidence':>16} {'s.e.':>8}   reference{'':<14} particles stages  seconds")
    for name in names:
        known = REFERENCES[name]
        method = ppl.TemperedSMC(int(known.share * particles))
        found[name], seconds = evidence(name, method)
        estimate, error = found[name].log_evidence
        reference, stages = f"{known.log_evidence} +- {known.error}", len(found[name].history.beta)
        row = f"{name:<8} {estimate:16.3f} {error:8.3f}   {reference:<23}"
        print(f"{row} {method.particles:9} {stages:6} {seconds:8.1f}", flush=True)
    return found


if __name__ == "__main__":
    main(quick="--quick" in sys.argv, names=tuple(a for a in sys.argv[1:] if a in REFERENCES) or tuple(REFERENCES))
