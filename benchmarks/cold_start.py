"""`python -m benchmarks.cold_start`: from a program to its first draw, after imports, in fresh processes.

Eight schools, twice each: without a compilation cache, and in a process that finds JAX's persistent cache filled by
one before it. A first draw is a run of one chain with one draw after one step of warm-up. Goals: 1.5 s and 0.5 s.
"""

import os
import statistics
import subprocess
import sys
import tempfile

ROUNDS = 5
TARGET = "eight_schools-eight_schools_noncentered"
SIGMA = "[15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]"
EFFECTS = "[28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]"

SCRIPT = f"""
import importlib, sys, time
import numpy as np
from benchmarks.run_record import Settings
sampler = importlib.import_module(sys.argv[1]).sampler
data = (np.array({SIGMA}, np.float32), np.array({EFFECTS}, np.float32))
start = time.perf_counter()
sampler("{TARGET}", data, Settings(1, int(sys.argv[2]), 1))(0)
print(time.perf_counter() - start)
"""

SAMPLERS = {
    "quasiborel": "benchmarks.ours",
    "numpyro": "benchmarks.peers.numpyro_users",
    "numpyro-jit": "benchmarks.peers.numpyro_jit",
    "blackjax": "benchmarks.peers.blackjax_runs",
}


def seconds(module: str, warmup: int, cache: str | None) -> float:
    """One fresh process; `cache` is the folder of the persistent compilation cache."""
    dropped = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    if cache is not None:
        environment |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-c", SCRIPT, module, str(warmup)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(run.stdout.strip().splitlines()[-1])


def main(warmup: int = 1) -> None:
    """Alternate the samplers; print medians."""
    cold: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    cached: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    with tempfile.TemporaryDirectory() as folder:
        for name, module in SAMPLERS.items():
            seconds(module, warmup, f"{folder}/{name}")
        for _ in range(ROUNDS):
            for name, module in SAMPLERS.items():
                cold[name].append(seconds(module, warmup, None))
                cached[name].append(seconds(module, warmup, f"{folder}/{name}"))
    print(f"\nFirst draw of eight schools, after imports (medians of {ROUNDS} fresh processes)")
    print(f"  {'':<14}{'no cache':>12}{'persistent cache':>20}")
    for name in SAMPLERS:
        print(f"  {name:<14}{statistics.median(cold[name]):10.2f} s{statistics.median(cached[name]):18.2f} s")


if __name__ == "__main__":
    main()
