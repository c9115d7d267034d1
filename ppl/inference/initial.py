"""Where chains start: uniformly near the origin of the unconstrained space, closer, at prior draws, by Pathfinder.

Tries depend on the run's key, the chain and the number of the try alone. Stan's default is the first kind. Pathfinder
comes last, or first where it is asked for: it looks at thousands of points and goes uphill from the first one of finite
density.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl.errors import DegenerateWeightsError
from ppl.inference.data_checks import density_table
from ppl.inference.pathfinder import LOOKS, pathfinder_start
from ppl.typing import PRNGKey

TRIES = ((50, 2.0), (70, 0.2), (100, None))
"""Up to which try the start is uniform in a cube of this half-width; None: a prior draw."""
PATHFINDER = "pathfinder"
"""The setting `start` that asks for Pathfinder."""


@dataclass(frozen=True, eq=False)
class Starts:
    """Starts of chains, try by try.

    Attributes:
        target: What is sampled: `program`, `dim`, `vector(choices)`, `choices(vector)`.
        key: The run's key.
        given: Unconstrained vectors by chain (in turn), the only ones that are tried; None: none.
        pathfinder: Whether Pathfinder comes first, not last.
    """

    target: Any
    key: PRNGKey
    given: np.ndarray | None = None
    pathfinder: bool = False
    _found: dict[int, np.ndarray | None] = field(default_factory=dict)

    def __call__(self, chain: int, attempt: int) -> np.ndarray:
        """The vector for a chain's try.

        Raises:
            DegenerateWeightsError: there are no more tries; the message holds the log density by site at the last.
        """
        if self.given is not None:
            if attempt == 0:
                return self.given[chain % len(self.given)]
            raise self._none(self.given[chain % len(self.given)], "The start that was given", chain)
        if self.pathfinder:
            return self._uphill(chain, attempt, f"None of {LOOKS} points that Pathfinder looked at")
        for last, width in TRIES:
            if attempt < last:
                return self._prior(chain, attempt) if width is None else self._uniform(chain, attempt, width)
        last, _ = TRIES[-1]
        return self._uphill(chain, attempt - last, f"None of {last} starts, nor of {LOOKS} more by Pathfinder,")

    def many(self, count: int) -> np.ndarray:
        """First tries of as many chains, for a look at the data."""
        return np.stack([self._uniform(chain, 0, TRIES[0][1]) for chain in range(count)])

    def _uphill(self, chain: int, attempt: int, what: str) -> np.ndarray:
        """What Pathfinder finds for a chain, once: the same for chains that share a start."""
        if attempt == 0:
            if chain not in self._found:
                self._found[chain] = pathfinder_start(self.target, self.key, chain)
            if (found := self._found[chain]) is not None:
                return found
        raise self._none(self._uniform(chain, 0, TRIES[0][1]), what, chain)

    @cached_property
    def _seed(self) -> list[int]:
        """The key's numbers, fetched once."""
        return np.asarray(jax.random.key_data(self.key)).reshape(-1).tolist()

    def _uniform(self, chain: int, attempt: int, width: float) -> np.ndarray:
        vector = np.random.default_rng([*self._seed, chain, attempt]).uniform(-width, width, self.target.dim)
        return vector.astype(jax.dtypes.canonicalize_dtype(float))

    def _prior(self, chain: int, attempt: int) -> np.ndarray:
        key = jax.random.fold_in(jax.random.fold_in(self.key, chain), attempt)
        return np.asarray(_pulled(self.target, self.target.program.simulate(key).choices))

    def _none(self, vector: np.ndarray, what: str, chain: int) -> DegenerateWeightsError:
        choices = self.target.choices(jnp.asarray(vector))
        complete = choices | self.target.recover(self.key, choices)
        program = self.target.program
        return DegenerateWeightsError(
            f"{what} of chain {chain} on {program.name!r} had a finite log density with a finite gradient.\n"
            f"Log density by site at one of them:\n{density_table(program, complete)}\n"
            "Fix: check the marked sites (data outside the support, a scale that under- or overflows), or give a "
            "start: ppl.NUTS(start={address: value})."
        )


@jax.jit
def _pulled(target: Any, choices: Any) -> Any:
    return target.vector(choices)


def starts_for(target: Any, key: PRNGKey, start: Any, given: Callable[[Any, Any], np.ndarray]) -> Starts:
    """The starts that the setting `start` of a method asks for.

    Args:
        target: What is sampled.
        key: The run's key.
        start: None, "pathfinder", or values by address.
        given: From the target and values by address to vectors by chain.

    Raises:
        ValueError: `start` is none of these.
    """
    if start is None or start == PATHFINDER:
        return Starts(target, key, pathfinder=start is not None)
    if isinstance(start, Mapping):
        return Starts(target, key, given(target, start))
    raise ValueError(
        f'start is {start!r}.\nExpected: None, "pathfinder", or values for all continuous choices by address.\n'
        'Fix: ppl.NUTS(start="pathfinder") or ppl.NUTS(start={address: value}).'
    )
