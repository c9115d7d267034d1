"""One sampler on one target in one process: `python -m benchmarks.mcmc_worker SAMPLER TARGET --out FILE.npz`.

Writes the draws of the last run, and seconds: of the first run, from the model to draws on the host with compilation
(imports are done), and of further runs in the same process. Only the sampler that is named is imported.
"""

import argparse
import importlib
import time

import numpy as np

from benchmarks.run_record import Settings
from benchmarks.targets import arguments

SAMPLERS: dict[str, tuple[str, str]] = {
    "quasiborel": ("benchmarks.ours", "sampler"),
    "numpyro": ("benchmarks.peers.numpyro_users", "sampler"),
    "numpyro-jit": ("benchmarks.peers.numpyro_jit", "sampler"),
    "blackjax": ("benchmarks.peers.blackjax_runs", "sampler"),
    "nutpie-diagonal": ("benchmarks.peers.nutpie_runs", "sampler"),
    "nutpie-low-rank": ("benchmarks.peers.nutpie_runs", "low_rank"),
}
"""Module and function by sampler: a peer's process imports nothing of ours, and ours nothing of a peer."""


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sampler", choices=SAMPLERS)
    parser.add_argument("target")
    parser.add_argument("--folder")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1)
    for name, value in Settings()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def main() -> None:
    """Run and write."""
    options = parsed()
    settings = Settings(options.chains, options.warmup, options.draws)
    data = arguments(options.target, options.folder)
    module, function = SAMPLERS[options.sampler]
    make = getattr(importlib.import_module(module), function)
    seconds, started = [], time.perf_counter()
    run = make(options.target, data, settings)
    for seed in range(options.seed, options.seed + options.repeats + 1):
        result = run(seed)
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    draws = {f"draws/{name}": values for name, values in result.draws.items()}
    np.savez(options.out, seconds=seconds, steps=result.steps, warmup_steps=result.warmup_steps, **draws)


if __name__ == "__main__":
    main()
