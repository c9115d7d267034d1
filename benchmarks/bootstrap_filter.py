"""`make bench-smc`: the bootstrap filter on a linear-Gaussian model, T = 100, ours, hand-written JAX and the peers'.

    PARTICLES_PYTHON=... CUTHBERT_PYTHON=... python -m benchmarks.bootstrap_filter [--particles 1000,10000] [--rounds 7]

Every arm is a process that waits for requests; they take turns, and the order turns with the round. All resample
systematically where the effective sample size is below half. The peers live in environments of their own:

    python -m venv E1 && E1/bin/pip install particles==0.4 'numpy<2'     PARTICLES_PYTHON=E1/bin/python
    python -m venv E2 && E2/bin/pip install cuthbert jax                 CUTHBERT_PYTHON=E2/bin/python

Printed are medians, medians over rounds of ratios to `hand`, and how far the mean evidence is from Kalman's, in
standard errors (of ours, more than six is an error). At the end, ours at lengths from 10 to 10,000: seconds of the
first run, which compiles, in a fresh process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.filter_protocol import exact_log_evidence, series

HERE = [sys.executable, "-m", "benchmarks.filters_jax"]
OURS = ["quasiborel", "quasiborel-infer", "hand", "hand-error", "hand-bare"]
PEERS = {"particles": "PARTICLES_PYTHON", "cuthbert": "CUTHBERT_PYTHON"}
LENGTH = 100
FARTHEST = 6.0
"""Standard errors that a mean evidence may be off."""


class Worker:
    """A filter in a process of its own."""

    def __init__(self, arm: str) -> None:
        command = [os.environ[PEERS[arm]], "-m", f"benchmarks.peers.{arm}_filter"] if arm in PEERS else [*HERE, arm]
        kept = {name: x for name, x in os.environ.items() if name not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
        self.arm = arm
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kept)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.requests.close()
        self.process.wait()

    def ask(self, particles: int, length: int, seed: int) -> dict[str, float]:
        """One run."""
        self.requests.write(json.dumps({"particles": particles, "length": length, "seed": seed}) + "\n")
        self.requests.flush()
        answer = self.answers.readline()
        if not answer:
            raise RuntimeError(f"The worker of {self.arm!r} ended with code {self.process.wait()}; its error is above.")
        return json.loads(answer)


def compared(workers: list[Worker], particles: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Answers by arm and round, after one run each that compiles."""
    answers: dict[str, list[dict[str, float]]] = {worker.arm: [] for worker in workers}
    for worker in workers:
        worker.ask(particles, LENGTH, 0)
    for number in range(1, rounds + 1):
        for worker in workers[:: 1 if number % 2 == 0 else -1]:
            answers[worker.arm].append(worker.ask(particles, LENGTH, number))
    return answers


def errors(answers: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Mean evidence minus the exact one, in standard errors that are pooled over arms."""
    exact = exact_log_evidence(series(LENGTH))
    ratios = {arm: np.exp([x["log_evidence"] - exact for x in found]) for arm, found in answers.items()}
    pooled = np.sqrt(np.mean([np.var(x, ddof=1) / len(x) for x in ratios.values()]))
    return {arm: float((x.mean() - 1.0) / pooled) for arm, x in ratios.items()}


def report(particles: int, answers: dict[str, list[dict[str, float]]]) -> None:
    """Print a table."""
    off = errors(answers)
    base = "hand" if "hand" in answers else next(iter(answers))
    print(f"\n{particles} particles, T = {LENGTH}" + " " * 14 + f"ms   / {base}   evidence off, s.e.")
    for arm, found in answers.items():
        seconds = [x["seconds"] for x in found]
        ratio = statistics.median(x / y["seconds"] for x, y in zip(seconds, answers[base], strict=True))
        print(f"  {arm:<24} {statistics.median(seconds) * 1e3:12.2f} {ratio:8.2f} {off[arm]:12.1f}", flush=True)
    wrong = [arm for arm, distance in off.items() if arm not in PEERS and abs(distance) > FARTHEST]
    if wrong:
        raise AssertionError(f"The evidence of {', '.join(wrong)} is not the Kalman filter's.")


def compilation(lengths: list[int], rounds: int) -> None:
    """First and second runs of ours, each length in a fresh process a round."""
    print("\nquasiborel, 1000 particles: seconds of a first run beyond a second run's (and CPU seconds)")
    for length in lengths:
        extra: dict[str, list[float]] = {"seconds": [], "cpu_seconds": []}
        for _ in range(rounds):
            with Worker("quasiborel") as worker:
                first, second = worker.ask(1000, length, 0), worker.ask(1000, length, 1)
            for clock, found in extra.items():
                found.append(first[clock] - second[clock])
        wall, cpu = (statistics.median(found) for found in extra.values())
        print(f"  T = {length:<8} {wall:8.2f} ({cpu:.2f})", flush=True)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", default="1000,10000,100000,1000000")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--arms", default=",".join([*OURS, *PEERS]), help="with commas")
    parser.add_argument("--lengths", default="10,100,1000,10000", help="for compile times; may be empty")
    parser.add_argument("--compile-rounds", type=int, default=3)
    parser.add_argument("--out", help="a JSON file for every answer")
    return parser.parse_args()


def numbers(listed: str) -> list[int]:
    """Numbers with commas between them."""
    return [int(x) for x in listed.split(",") if x]


def main() -> None:
    """Compare, and time compilation."""
    options, records = parsed(), {}
    arms = options.arms.split(",")
    for arm in [arm for arm in arms if arm in PEERS and PEERS[arm] not in os.environ]:
        print(
            f"Without {arm}: set {PEERS[arm]} to an interpreter that has it (python -m benchmarks.bootstrap_filter -h)"
        )
        arms.remove(arm)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(arm)) for arm in arms]
        for particles in numbers(options.particles):
            records[particles] = compared(workers, particles, options.rounds)
            report(particles, records[particles])
    if options.out:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        Path(options.out).write_text(json.dumps(records, indent=1))
    compilation(numbers(options.lengths), options.compile_rounds)


if __name__ == "__main__":
    main()
