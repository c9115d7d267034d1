"""Eight schools: the effect of coaching on test scores, with partial pooling (Rubin 1981; Gelman et al., BDA3, 5.5).

The data are real: estimated effects and standard errors of eight parallel experiments. The posterior is found by
importance sampling from the prior, with its evidence and a diagnosis of its own weights.
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
    posterior = ppl.infer(program, ppl.Importance(5_000 if quick else 200_000), key=0)
    print(posterior.summary())
    Path(folder).mkdir(parents=True, exist_ok=True)
    picture = Path(folder) / "eight_schools.png"
    plot_posterior(posterior, picture)
    print(f"\nPicture: {picture}")
    return posterior


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
