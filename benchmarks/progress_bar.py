"""`python -m benchmarks.progress_bar`: what the progress bar costs, as a ratio of two runs.

The same chains with the bar (drawn to a stream that throws it away) and without, in turn; medians, and their ratio.
"""

import argparse
import contextlib
import io
import statistics
import time
import warnings

import jax.numpy as jnp
import numpy as np

import ppl
import ppl.distributions as dist

GOAL = 1.02


@ppl.model
def hierarchy(y: np.ndarray) -> None:
    """A hundred groups of five."""
    spread = ppl.sample("spread", dist.LogNormal(0.0, 0.5))
    group = ppl.sample("group", dist.Normal(jnp.zeros(100), 1.0).to_event(1))
    ppl.sample("y", dist.Normal(spread * group[:, None] + jnp.zeros((100, 5)), 1.0).to_event(2), obs=y)


def seconds(program: ppl.Program, draws: int, *, progress: bool) -> float:
    """The wall time of one run of four chains."""
    begin = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ppl.infer(program, ppl.NUTS(), key=0, chains=4, warmup=500, draws=draws, progress=progress)
    return time.perf_counter() - begin


def main() -> None:
    """Print both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    program = hierarchy(np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32))
    seconds(program, options.draws, progress=True)  # compile
    pairs = [
        [seconds(program, options.draws, progress=on) for on in (True, False)[:: 1 - 2 * (i % 2)]][:: 1 - 2 * (i % 2)]
        for i in range(options.rounds)
    ]
    shown, hidden = (statistics.median(times) for times in zip(*pairs, strict=True))
    each = statistics.median(a / b for a, b in pairs)
    print(f"with the bar {shown:.3f} s, without {hidden:.3f} s: {shown / hidden:.4f}; by pairs {each:.4f}; goal {GOAL}")


if __name__ == "__main__":
    main()
