"""NumPyro's distributions under one name, and the few that it lacks.

Every distribution is a pytree whose array parameters are leaves. What is ours: `Scaled` (subsampled plates),
`RandomSubset` (the subsample itself), `Seed` (what a random function draws).
"""

from numpyro.distributions import *  # noqa: F403
from numpyro.distributions import constraints, transforms

from ppl.distributions.scaled import Scaled
from ppl.distributions.seed import Seed
from ppl.distributions.subset import RandomSubset

__all__ = ["RandomSubset", "Scaled", "Seed", "constraints", "transforms"]
