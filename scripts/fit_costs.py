"""Fit the recorded costs of the committed records, and write bdlbench/runs/costs.toml.

python scripts/fit_costs.py [FOLDER …]
"""

from __future__ import annotations

import sys
from pathlib import Path

from bdlbench.core import files
from bdlbench.records import record as records
from bdlbench.runs import costs

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Fit, write, and print the errors."""
    folders = [Path(name) for name in sys.argv[1:]] or [ROOT / "results"]
    made = [record for folder in folders for record in records.scan(folder, below=True).records]
    model = costs.fit(made)
    files.write_atomic(costs.FITTED, costs.written(model).encode())
    print(f"{model.records} records of {model.cells} cells")
    for name in costs.FITTED_COSTS:
        median, most = getattr(model, name).within
        print(f"{name}: half of the cells left out are within a factor {median:.2f}, nine of ten within {most:.2f}")


if __name__ == "__main__":
    main()
