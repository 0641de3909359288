"""A large folder of records, read from its files, and by the index beside them."""

import shutil
import tempfile
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "results" / "reference" / "quick"

COUNT = 10_000
"""The records in the folder."""


class LargeFolder:
    """Read a folder of 10,000 records. Commits without an index are skipped."""

    timeout = 600
    number = 1
    repeat = 3

    def setup(self):
        """Write the records, and their index."""
        try:
            from bdlbench.records import index
        except ImportError:
            raise NotImplementedError from None
        from bdlbench.records.record import scan

        self.index, self.settled, self.scan = index, index.SETTLED_NS, scan
        index.SETTLED_NS = -(10**12)
        self.folder = Path(tempfile.mkdtemp())
        original = next(SOURCE.glob("coin_flips-coin-map*.json")).read_bytes()
        for k in range(COUNT):
            (self.folder / f"copy-{k:012x}-{k:08x}.json").write_bytes(original)
        self.scan(self.folder)

    def teardown(self):
        """Remove them."""
        if hasattr(self, "folder"):
            self.index.SETTLED_NS = self.settled
            shutil.rmtree(self.folder)

    def time_files(self):
        """Read the files."""
        self.scan(self.folder, indexed=False)

    def time_index(self):
        """Read the index."""
        self.scan(self.folder)
