"""Eight schools: the effect of coaching on test scores, with partial pooling (Rubin 1981; Gelman et al., BDA3, 5.5).

The data are real: estimated effects and standard errors of eight parallel experiments. Where the schools hardly differ
(a small tau), the centred effects live in a funnel that no step size suits; `ppl.reparam` draws them in units of tau
instead, and leaves the model's text and its meaning as they are. NUTS samples it; importance sampling from the prior,
which is good enough for so few parameters, must agree.
"""

import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp

import ppl
import ppl.distributions as dist
from ppl.plots import plot_posterior

EFFECTS = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
STANDARD_ERRORS = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


@ppl.model
def eight_schools(standard_errors: Any, effects: Any = None) -> Any:
    """Effects of the schools vary around a common mean; what was measured varies around them."""
    mu = ppl.sample("mu", dist.Normal(0.0, 5.0))
    tau = ppl.sample("tau", dist.HalfCauchy(5.0))
    with ppl.plate("school", 8):
        theta = ppl.sample("theta", dist.Normal(mu, tau))
        ppl.sample("effect", dist.Normal(theta, standard_errors), obs=effects)
    return theta


def main(*, quick: bool = False, folder: str = "output") -> ppl.Posterior:
    """Print the program, its representation and the posterior; draw the posterior."""
    program = eight_schools(STANDARD_ERRORS, EFFECTS)
    print(program, "\n")
    print(program.jaxpr, "\n")
    noncentered = ppl.reparam(program, {"theta": ppl.noncentered()})
    length = 500 if quick else 1000
    posterior = ppl.infer(noncentered, ppl.NUTS(0.9), key=0, chains=4, warmup=length, draws=length)
    print(posterior.summary(addresses=("mu", "tau", "theta")), "\n")

    weighted = ppl.infer(program, ppl.Importance(20_000 if quick else 200_000), key=0)
    print("Mean effects by NUTS:      ", *(f"{x:6.2f}" for x in posterior.deterministic["theta"].mean((0, 1))))
    print("  by importance sampling:  ", *(f"{x:6.2f}" for x in weighted.summary(addresses=["theta"]).columns["mean"]))

    Path(folder).mkdir(parents=True, exist_ok=True)
    picture = Path(folder) / "eight_schools.png"
    plot_posterior(posterior, picture, ["mu", "tau", "theta"])
    print(f"\nPicture: {picture}")
    return posterior


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
