"""`python -m benchmarks.torture`: all cases, a table, and exit status 1 after any failure."""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tables import write_tables
from benchmarks.torture.harness import GOOD, Case, count_outcomes, run_cases, show_progress
from benchmarks.torture.plan import list_all


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="share of the cases of every kind")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kind", help="only the cases of this kind, in reports/ nothing is written then")
    arguments = parser.parse_args()
    # Not tracked: the campaign is about files.
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    root = Path(tempfile.mkdtemp(prefix="torture-"))
    begun = time.monotonic()
    try:
        cases: list[Case] = list_all(root, arguments.seed, arguments.share)
        cases = [case for case in cases if arguments.kind in (None, case.kind)]
        random.Random(arguments.seed).shuffle(cases)
        print(f"{len(cases)} cases, prepared in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        outcomes = run_cases(cases, arguments.jobs, show_progress)
    finally:
        os.system(f"chmod -R u+rwX {root}")
        shutil.rmtree(root, ignore_errors=True)
    outcomes.sort(key=lambda outcome: outcome.kind)
    failed = sum(outcome.verdict not in GOOD for outcome in outcomes)
    rows = list(count_outcomes(outcomes))
    total = {"kind": "all", **{key: sum(row[key] for row in rows) for key in list(rows[0])[1:]}}  # type: ignore[misc]
    words = f"{len(outcomes)} cases with seed {arguments.seed} in {time.monotonic() - begun:.0f} s"
    if arguments.kind is None and arguments.share == 1.0:
        write_tables("torture", "Damage, kills and full disks", {words: [*rows, total]})
    else:
        print(words, *rows, sep="\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
