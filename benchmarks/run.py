"""The command line and whole small runs: imports, the time to the first step, fit and score of a cell."""

import subprocess
import sys

REPEATS = 3

FIRST_STEP = """
import os, sys, tempfile, time
from pathlib import Path
from bdlbench import api
from bdlbench.runs import work
from bdlbench.runs import suites as plan
from bdlbench.runs.batch import Settings
asked = plan.Overrides(methods=("mle",), datasets=("digits",), seeds="5")
job = work.plan(plan.build_spec(plan.read_suite("quick"), asked), Settings(Path(sys.argv[1])))
def report(event):
    if event.kind == "step":
        print(time.time())
        sys.stdout.flush()
        os._exit(0)
work.perform(work.prepare(job), report=report)
"""


class Import:
    """Import in a new interpreter."""

    def timeraw_front_door(self):
        return "import bdlbench.__main__"

    def timeraw_api(self):
        return "import bdlbench.api"

    def timeraw_torch(self):
        return "import torch"


class CommandLine:
    """Run a command from the shell."""

    def time_help(self):
        subprocess.run([sys.executable, "-m", "bdlbench", "--help"], check=True, capture_output=True)

    def track_first_step(self):
        """Return the seconds from the shell to the first training step, without those of torch's own import."""
        import tempfile
        import time

        def spent(code):
            with tempfile.TemporaryDirectory() as folder:
                began = time.time()
                done = subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True, text=True)
            return float(done.stdout.split()[-1]) - began

        torch = "import torch, time; print(time.time())"
        return min(spent(FIRST_STEP) - spent(torch) for _ in range(REPEATS))

    track_first_step.unit = "s"


class Cell:
    """A small cell as a whole: data, fit, predictive, metrics, record."""

    params = (["mle", "mean_field_vi", "mc_dropout"],)
    param_names = ("method",)

    def setup(self, method):
        from bdlbench import api

        self.run = api.run

    def time_cell(self, method):
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            settings = {f"{method}.epochs": 3}
            chosen = {"method": method, "model": "mlp", "dataset": "digits", "seeds": 2, "samples": 10}
            self.run("quick", results=folder, set=settings, **chosen)

    def peakmem_cell(self, method):
        self.time_cell(method)
