"""What the filters of `benchmarks.bootstrap_filter` share: the model's numbers, the data, and how a worker talks.

x_0 ~ N(0, 1);  x_t ~ N(a x_(t-1), q);  y_t ~ N(x_t, r)  (variances), t = 1, ..., T.

A worker is a process that reads a JSON request a line, `{"particles": n, "length": t, "seed": s}`, runs its filter on
it, and writes a JSON answer a line, `{"seconds": ..., "cpu_seconds": ..., "log_evidence": ...}` (CPU of all its
threads). Imports NumPy alone: the peers live in environments of their own.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

A, Q, R = 0.9, 0.2, 0.3
THRESHOLD = 0.5
"""Resample (systematic) where the effective sample size is below this fraction of the particles."""

Filter = Callable[[int], float]
"""From a seed to a log evidence; waits for the answer."""


def series(length: int) -> np.ndarray:
    """Observations from the model."""
    rng = np.random.default_rng(0)
    x, found = rng.normal(), []
    for _ in range(length):
        x = A * x + Q**0.5 * rng.normal()
        found.append(x + R**0.5 * rng.normal())
    return np.array(found, np.float32)


def exact_log_evidence(observations: np.ndarray) -> float:
    """By the Kalman filter."""
    mean, variance, total = 0.0, 1.0, 0.0
    for y in observations.astype(float):
        mean, variance = A * mean, A**2 * variance + Q
        error, spread = y - mean, variance + R
        total -= 0.5 * (np.log(2 * np.pi * spread) + error**2 / spread)
        mean, variance = mean + variance / spread * error, variance * R / spread
    return float(total)


def serve(make: Callable[[int, np.ndarray], Filter]) -> None:
    """Answer requests until the input ends; a filter is made once for a number of particles and a length.

    Args:
        make: From a number of particles and observations to a filter.
    """
    filters: dict[tuple[int, int], Filter] = {}
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        size = request["particles"], request["length"]
        observations = series(size[1])
        start, cpu = time.perf_counter(), time.process_time()
        if size not in filters:
            filters[size] = make(size[0], observations)
        log_evidence = filters[size](request["seed"])
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "log_evidence": log_evidence}), flush=True)
