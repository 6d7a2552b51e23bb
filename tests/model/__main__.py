"""`python -m tests.model [--seeds N] [--without RULE | --each]`: looks for counterexamples and tells how they arise."""

from __future__ import annotations

import argparse
import sys

from tests.model.rules import Rule
from tests.model.run import Counterexample, run


def search(seeds: range, without: Rule | None = None) -> Counterexample | None:
    """The first counterexample among the seeds."""
    left_out = () if without is None else (without,)
    found = (run(seed, left_out) for seed in seeds)
    return next((one for one in found if one is not None), None)


def main() -> int:
    """Exit status 1 when all rules hold and a run is broken all the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--without", choices=[rule.name for rule in Rule])
    parser.add_argument("--each", action="store_true", help="leave out each rule in turn")
    given = parser.parse_args()
    rules = list(Rule) if given.each else [Rule[given.without] if given.without else None]
    broken = False
    for rule in rules:
        found = search(range(given.seeds), rule)
        broken = broken or (rule is None and found is not None)
        print(f"without {rule.name}: {rule}" if rule else f"all {len(Rule)} rules")
        if found is None:
            print(f"  nothing in {given.seeds} runs")
            continue
        print(f"  seed {found.seed}: {found.what}")
        if not given.each:
            print(*(f"    {line}" for line in found.told), sep="\n")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
