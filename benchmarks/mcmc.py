"""`make bench-mcmc`: NUTS on nineteen targets, ours and the peers' in alternation, every run in a process of its own.

    python -m benchmarks.mcmc --folder PATH --rounds 3 --out FILE.json [--only arma,garch] [--arms quasiborel,numpyro]

Arms are a sampler and the XLA flags of its process. Peers run as their users run them, and once more, compiled as a
whole, with the flag that lets XLA:CPU compile loops natively (`-native`); ours sets that flag by itself. Results are
written after every run, so that an interrupted comparison is not lost; `python -m benchmarks.mcmc_report FILE` prints
the tables again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import mcmc_report
from benchmarks.mcmc_quality import quality
from benchmarks.targets import TARGETS

NATIVE = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=10000000"
TIME_LIMIT = 1800
STDERR_KEPT = 400


class Arm(NamedTuple):
    """A sampler (see `benchmarks.mcmc_worker.SAMPLERS`) and the XLA flags of its process."""

    sampler: str
    flags: str | None = None


ARMS: dict[str, Arm] = {
    "quasiborel": Arm("quasiborel"),
    "numpyro": Arm("numpyro"),
    "blackjax": Arm("blackjax"),
    "numpyro-native": Arm("numpyro-jit", NATIVE),
    "blackjax-native": Arm("blackjax", NATIVE),
    "nutpie-diagonal": Arm("nutpie-diagonal"),
    "nutpie-low-rank": Arm("nutpie-low-rank"),
}


def environment(arm: Arm) -> dict[str, str]:
    """This process's environment without its XLA flags (ours sets one on import) and without a compilation cache."""
    dropped = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept if arm.flags is None else {**kept, "XLA_FLAGS": arm.flags}


def interpreter(arm: Arm, options: argparse.Namespace) -> str:
    """nutpie may live in an environment of its own."""
    return options.nutpie_python if arm.sampler.startswith("nutpie") else sys.executable


def measured(name: str, target: str, number: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run one arm on one target in a fresh process; its record, with `error` where it failed."""
    record: dict[str, Any] = {"arm": name, "target": target, "round": number}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.npz"
        command = [interpreter(ARMS[name], options), "-m", "benchmarks.mcmc_worker", ARMS[name].sampler, target]
        command += ["--out", str(out), "--seed", str(1000 * number)]
        command += ["--folder", options.folder] if options.folder else []
        try:
            subprocess.run(
                command, env=environment(ARMS[name]), capture_output=True, text=True, check=True, timeout=TIME_LIMIT
            )
        except subprocess.CalledProcessError as error:
            return {**record, "error": error.stderr.strip()[-STDERR_KEPT:]}
        except subprocess.TimeoutExpired:
            return {**record, "error": f"over {TIME_LIMIT} s"}
        with np.load(out) as run:
            return {**record, **figures(run, target, options.folder)}


def figures(run: Any, target: str, folder: str | None) -> dict[str, Any]:
    """Seconds, effective sample sizes and agreement of a run that a worker has written."""
    draws = {name.partition("/")[2]: run[name] for name in run.files if name.startswith("draws/")}
    first, *repeats = (float(x) for x in run["seconds"])
    found, gradients = quality(draws, target, folder), float(run["steps"].sum())
    return {
        "first_s": first,
        "repeat_s": repeats[-1],
        "gradients": gradients,
        "warmup_gradients": float(run["warmup_steps"]),
        **found,
        "ess_per_s": found["min_ess"] / repeats[-1],
        "ess_per_gradient": found["min_ess"] / gradients,
    }


def schedule(options: argparse.Namespace) -> Iterator[tuple[int, str, str]]:
    """Rounds of targets of arms; the order of the arms turns with the round."""
    targets = [target for target in TARGETS if any(part in target for part in options.only.split(","))]
    arms = options.arms.split(",")
    for number in range(options.rounds):
        for target in targets:
            for arm in arms[:: 1 if number % 2 == 0 else -1]:
                yield number, target, arm


def parsed() -> argparse.Namespace:
    """The command line."""
    nutpie_python = os.environ.get("NUTPIE_PYTHON", sys.executable)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=os.environ.get("POSTERIORDB"), help="a folder laid out as posteriordb")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="parts of names of targets, with commas")
    parser.add_argument("--arms", default=",".join(ARMS), help=f"of {', '.join(ARMS)}")
    parser.add_argument("--out", default="output/mcmc.json")
    parser.add_argument("--nutpie-python", default=nutpie_python, help="an interpreter that has nutpie")
    return parser.parse_args()


def main() -> None:
    """Run the schedule; print a line a run, and the tables at the end."""
    options, records = parsed(), []
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    for number, target, arm in schedule(options):
        records.append(measured(arm, target, number, options))
        print(mcmc_report.line(records[-1]), flush=True)
        Path(options.out).write_text(json.dumps(records, indent=1))
    mcmc_report.report(records)


if __name__ == "__main__":
    main()
