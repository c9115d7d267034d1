"""`python -m benchmarks.posteriordb --folder PATH`: ppl.NUTS() on the sixteen posteriors against the reference draws.

With `--labels`, the mixture and the hidden Markov models are those whose labels are choices, summed out by NUTS itself.
"""

import argparse
import sys
import time

import numpy as np

import ppl
from benchmarks.posteriordb import POSTERIORS, Agreement, Entry, agreement, flatten, load_data, load_reference


def compared(entry: Entry, options: argparse.Namespace) -> tuple[ppl.Posterior, Agreement]:
    """Run NUTS on one posterior and compare."""
    program = entry.program(load_data(options.folder, entry.name), labels=options.labels)
    posterior = ppl.infer(program, ppl.NUTS(), key=options.seed, chains=4, warmup=options.warmup, draws=options.draws)
    reference = load_reference(options.folder, entry.name)
    return posterior, agreement(flatten(posterior.arrays, reference), reference)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="laid out as posteriordb; else the environment variable POSTERIORDB")
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--labels", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    return parser.parse_args()


def main() -> None:
    """Print a line a posterior; exit with 1 where one disagrees."""
    options, failed = parsed(), []
    print(f"{'posterior':<44}{'s':>8}{'min ESS':>9}{'divergent':>11}{'worst z':>9}  parameter")
    for name, entry in POSTERIORS.items():
        if options.only not in name or (options.labels and entry.with_labels is None):
            continue
        started = time.perf_counter()
        posterior, found = compared(entry, options)
        seconds, (parameter, z) = time.perf_counter() - started, found.worst
        divergent = int(np.sum(posterior.stats.get("diverging", 0)))
        verdict = "" if not found.failures else "  DISAGREES"
        print(f"{name:<44}{seconds:8.2f}{found.min_ess:9.0f}{divergent:11d}{z:9.2f}  {parameter}{verdict}", flush=True)
        failed += [name] if found.failures else []
    print("all agree" if not failed else f"disagree: {', '.join(failed)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
