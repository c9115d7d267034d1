"""The bootstrap filter of `particles` on the linear-Gaussian model, as its tutorial writes it; summaries are off."""

import numpy as np
import particles
from particles import distributions
from particles.state_space_models import Bootstrap, StateSpaceModel

from benchmarks.filter_protocol import THRESHOLD, A, Filter, Q, R, serve


class Walk(StateSpaceModel):
    """`PX0` is the law of the state at the first observation."""

    def PX0(self):
        return distributions.Normal(scale=(A**2 + Q) ** 0.5)

    def PX(self, t, xp):
        return distributions.Normal(loc=A * xp, scale=Q**0.5)

    def PY(self, t, xp, x):
        return distributions.Normal(loc=x, scale=R**0.5)


def make(count: int, observations: np.ndarray) -> Filter:
    """A filter of a model object that is made once."""
    model = Bootstrap(ssm=Walk(), data=observations.astype(float))

    def run(seed: int) -> float:
        np.random.seed(seed)  # noqa: NPY002
        smc = particles.SMC(fk=model, N=count, resampling="systematic", ESSrmin=THRESHOLD, collect="off")
        smc.run()
        return float(smc.logLt)

    return run


if __name__ == "__main__":
    serve(make)
