"""Fair timing: the candidates run in alternation in one process on the same work, and ratios of medians are printed.

This machine is shared, so single times mean little; nothing here asserts a time.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Timing(NamedTuple):
    """Seconds of one call, a figure a round."""

    rounds: list[float]

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)


def alternate(candidates: dict[str, Callable[[], Any]], rounds: int = 31, per_call: int = 1) -> dict[str, Timing]:
    """Time every candidate once a round, in alternating order, after two warm-up calls each.

    Args:
        candidates: Functions that start the work and return arrays (they are waited for).
        rounds: How often every candidate is timed.
        per_call: How many evaluations one call makes; times are divided by it.
    """
    for candidate in [*candidates.values()] * 2:
        jax.block_until_ready(candidate())
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        for name in list(candidates)[:: 1 if number % 2 == 0 else -1]:
            start = time.perf_counter()
            jax.block_until_ready(candidates[name]())
            times[name].append((time.perf_counter() - start) / per_call)
    return {name: Timing(values) for name, values in times.items()}


def report(title: str, timings: dict[str, Timing], baseline: str) -> None:
    """Print medians, and the median over rounds of the ratio to the baseline in the same round."""
    print(f"\n{title}")
    for name, timing in timings.items():
        ratio = statistics.median(a / b for a, b in zip(timing.rounds, timings[baseline].rounds, strict=True))
        print(f"  {name:<34} {timing.median * 1e3:10.4f} ms   ratio {ratio:7.3f}")
