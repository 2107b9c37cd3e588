"""Check all methods for all properties, and write what the documentation shows of it: `make properties`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from mojd._terminal import progress_bar
from mojd.properties import Finding, check_table
from mojd.properties._search import EXAMPLES
from mojd.properties.table import method_names

RESULTS = Path(__file__).parent / "properties" / "results.json"


def shown(finding: Finding) -> dict[str, Any]:
    """Return what pages show of a finding: nothing that rounding on another machine might change."""
    entry: dict[str, Any] = {"mark": finding.mark}
    if finding.holds:
        entry |= {"examples": finding.examples, "structures": len(finding.structures)}
    elif finding.counterexample is not None:
        entry["counterexample"] = finding.counterexample.statement
        entry["violation"] = f"{finding.counterexample.violation:.2g}"
    else:
        entry["reason"] = finding.reason
    return entry


def main() -> int:
    """Write the results; return 1 if one of them contradicts a paper."""
    with progress_bar() as progress:
        report = check_table(sorted(method_names()), processes=os.cpu_count() or 1, progress=progress)
    results: dict[str, dict[str, Any]] = {}
    for finding in report.findings:
        results.setdefault(finding.method, {})[finding.property_name] = shown(finding)
    text = json.dumps({"examples": EXAMPLES, "methods": results}, indent=1, ensure_ascii=False)
    RESULTS.write_text(text + "\n", encoding="utf-8")
    for finding in report.disagreements:
        sys.stderr.write(f"{finding.method}, {finding.property_name}: the paper says otherwise\n")
    return 1 if report.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
