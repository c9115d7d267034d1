"""The energy of Hamiltonian chains: does resampling the momentum carry them through the tails?

E-BFMI, the estimated Bayesian fraction of missing information, is the mean squared change of the energy from draw to
draw over its variance. Below 0.3 a chain drifts through its energy levels so slowly that tails are not explored.

Reference: Betancourt, "Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo" (2016), equation 4.
"""

import numpy as np
from jaxtyping import Array, Float

MIN_BFMI = 0.3


def energy_bfmi(energy: Float[Array | np.ndarray, "chains draws"]) -> Float[np.ndarray, "chains"]:
    """E-BFMI of each chain, from ArviZ.

    Args:
        energy: potential and kinetic energy at each draw, in nats.

    Returns:
        About 1 for independent energies; NaN for a chain whose energy is not finite or never changes.

    Examples:
        >>> import numpy as np
        >>> steps = np.random.default_rng(0).normal(size=(2, 500))
        >>> energy_bfmi(steps).round().tolist(), bool((energy_bfmi(steps.cumsum(axis=1)) < 0.1).all())
        ([2.0, 2.0], True)
    """
    from arviz_stats.base.array import array_stats  # on first use: see the docstring of ppl.diagnostics

    chains = np.asarray(energy, np.float64)
    sound = np.isfinite(chains).all(axis=1) & (np.ptp(chains, axis=1) > 0)
    answers = np.full(len(chains), np.nan)
    if sound.any():
        answers[sound] = array_stats.bfmi(chains[sound], chain_axis=0, draw_axis=1)
    return answers
