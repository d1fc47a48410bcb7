"""Print what test reports hold: outcome counts and every measured figure.

usage: python -m tests.report FILE…
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(paths: list[str]) -> int:
    """Return 1 when any test of any report did not pass, or a report holds no test."""
    bad = 0
    for name in paths:
        report = json.loads(Path(name).read_text(encoding="utf-8"))
        counts = ", ".join(f"{n} {outcome}" for outcome, n in report["outcomes"].items())
        print(f"\n{name}: {counts} in {report['seconds']:.0f} s")
        for test, entry in report["tests"].items():
            for figure, value in entry["figures"].items():
                print(f"  {figure:<44} {value!s:>12}   {test.split('::')[-1]}")
        bad += set(report["outcomes"]) != {"passed"}
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
