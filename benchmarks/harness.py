"""Fair timing: the candidates run in alternation in one process on the same work, and ratios of medians are printed.

This machine is shared, so single times mean little; nothing here asserts a time.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax


def alternate(candidates: dict[str, Callable[[], Any]], rounds: int = 15, inner: int = 1) -> dict[str, float]:
    """Median seconds of one call of each candidate, after a warm-up call, in alternation.

    Args:
        candidates: Functions that start the work and return arrays (they are waited for).
        rounds: How often every candidate is timed.
        inner: Calls a timing.
    """
    for candidate in candidates.values():
        jax.block_until_ready(candidate())
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for order in _orders(list(candidates), rounds):
        for name in order:
            start = time.perf_counter()
            for _ in range(inner):
                jax.block_until_ready(candidates[name]())
            times[name].append((time.perf_counter() - start) / inner)
    return {name: statistics.median(values) for name, values in times.items()}


def _orders(names: list[str], rounds: int) -> Iterator[list[str]]:
    for number in range(rounds):
        yield names if number % 2 == 0 else names[::-1]


def report(title: str, medians: dict[str, float], baseline: str) -> None:
    """Print medians and their ratios to the baseline."""
    print(f"\n{title}")
    for name, seconds in medians.items():
        print(f"  {name:<34} {seconds * 1e3:10.4f} ms   ratio {seconds / medians[baseline]:7.3f}")
