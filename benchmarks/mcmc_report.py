"""Tables of a comparison of samplers: `python -m benchmarks.mcmc_report FILE.json`.

Figures are medians over rounds. A ratio is ours over the better of the peers of a setting, target by target; below a
table stands its geometric mean, and the targets where ours is behind.
"""

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

Records = list[dict[str, Any]]
Medians = dict[str, dict[str, float]]

OURS = "quasiborel"
USERS = ("numpyro", "blackjax")
NATIVE = ("numpyro-native", "blackjax-native")
NUTPIE = ("nutpie-diagonal", "nutpie-low-rank")


def line(record: dict[str, Any]) -> str:
    """One run in one line."""
    head = f"{record['round']} {record['target']:<44} {record['arm']:<16}"
    if "error" in record:
        return f"{head} failed: {record['error'][-160:]!r}"
    agrees = "" if record["failures"] is None else f"  worst z {record['worst']:.1f} {record['failures'] or ''}"
    return (
        f"{head} first {record['first_s']:7.2f} s  repeat {record['repeat_s']:7.3f} s  min ESS {record['min_ess']:6.0f}"
        f"  ESS/s {record['ess_per_s']:9.0f}  ESS/gradient {record['ess_per_gradient']:.4f}{agrees}"
    )


def medians(records: Records, figure: str) -> Medians:
    """Medians over rounds by target and arm."""
    values: dict[str, dict[str, list[float]]] = {}
    for record in records:
        if figure in record:
            values.setdefault(record["target"], {}).setdefault(record["arm"], []).append(record[figure])
    return {target: {arm: statistics.median(x) for arm, x in arms.items()} for target, arms in values.items()}


def geometric_mean(values: list[float]) -> float:
    """NaN where there are none."""
    return math.exp(statistics.fmean(math.log(x) for x in values)) if values else math.nan


def ratios(table: Medians, peers: tuple[str, ...], *, smaller_is_better: bool = False) -> dict[str, float]:
    """Ours over the best of the peers, by target; only where ours and all of the peers have run."""
    best = min if smaller_is_better else max
    whole = {target: arms for target, arms in table.items() if all(arm in arms for arm in (OURS, *peers))}
    return {target: arms[OURS] / best(arms[peer] for peer in peers) for target, arms in whole.items()}


def print_table(title: str, table: Medians, arms: list[str], digits: int) -> None:
    """One row a target, one column an arm."""
    print(f"\n{title}\n{'':<44}" + "".join(f"{arm:>17}" for arm in arms))
    for target, row in table.items():
        cells = (f"{row[arm]:17,.{digits}f}" if arm in row else f"{'-':>17}" for arm in arms)
        print(f"{target:<44}" + "".join(cells))


def print_ratio(goal: str, table: Medians, peers: tuple[str, ...], limit: float, *, smaller: bool = False) -> None:
    """The geometric mean of a ratio, its goal, and where ours is behind."""
    found = ratios(table, peers, smaller_is_better=smaller)
    if not found:
        return
    behind = {target: ratio for target, ratio in found.items() if (ratio > 1.0 if smaller else ratio < 1.0)}
    sign = "at most" if smaller else "at least"
    print(f"  {goal}: {geometric_mean(list(found.values())):.2f} over {len(found)} targets (goal: {sign} {limit})")
    for target, ratio in behind.items():
        print(f"    behind on {target}: {ratio:.2f}")


def report(records: Records) -> None:
    """Print everything."""
    arms = list(dict.fromkeys(record["arm"] for record in records))
    speed = medians(records, "ess_per_s")
    print_table("Minimum bulk ESS per second of a repeated run (warm-up and draws)", speed, arms, 0)
    print_ratio("over the better peer as its users run it", speed, USERS, 4.0)
    for peer in NATIVE:
        print_ratio(f"over {peer} (one jit, the same XLA option)", speed, (peer,), 1.3)
    total = medians(records, "first_s")
    print_table("Seconds from program to 4 x 1,000 draws, compilation included", total, arms, 2)
    print_ratio("over the better peer as its users run it", total, USERS, 0.5, smaller=True)
    print_ratio("over the better peer with the XLA option", total, NATIVE, 0.5, smaller=True)
    gradient = medians(records, "ess_per_gradient")
    print_table("Minimum bulk ESS per gradient (draws only)", gradient, arms, 4)
    for peer in (*NUTPIE, *USERS):
        print_ratio(f"over {peer}", gradient, (peer,), 1.0)
    print_quality(records, arms)


def print_quality(records: Records, arms: list[str]) -> None:
    """How many runs agree with the reference, and which do not."""
    print("\nAgreement with reference draws (runs without a z-score beyond 4, of all)")
    for arm in arms:
        runs = [r for r in records if r["arm"] == arm and r.get("failures") is not None]
        failed = [r for r in records if r["arm"] == arm and "error" in r]
        print(f"  {arm:<16} {sum(not r['failures'] for r in runs)} of {len(runs)}, {len(failed)} not finished")
        for r in runs:
            if r["failures"]:
                print(f"    round {r['round']}, {r['target']}: {', '.join(r['failures'])} (worst z {r['worst']:.1f})")


if __name__ == "__main__":
    report(json.loads(Path(sys.argv[1]).read_text()))
