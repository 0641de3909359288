"""Folders of records: 10,000 read from their files, and by the index beside them."""

import shutil
import tempfile
from pathlib import Path

from bdlbench.records import index
from bdlbench.records import record as records

SOURCE = Path(__file__).parents[1] / "results" / "reference" / "quick"


class LargeFolder:
    """Read a folder of 10,000 records."""

    timeout = 600
    number = 1
    repeat = 3

    def setup(self):
        """Write them, and their index."""
        self.settled, index.SETTLED_NS = index.SETTLED_NS, -(10**12)
        self.folder = Path(tempfile.mkdtemp())
        original = next(SOURCE.glob("coin_flips-coin-map*.json")).read_bytes()
        for k in range(10_000):
            (self.folder / f"copy-{k:012x}-{k:08x}.json").write_bytes(original)
        records.scan(self.folder)

    def teardown(self):
        """Remove them."""
        index.SETTLED_NS = self.settled
        shutil.rmtree(self.folder)

    def time_files(self):
        """Read the files."""
        records.scan(self.folder, indexed=False)

    def time_index(self):
        """Read the index."""
        records.scan(self.folder)
