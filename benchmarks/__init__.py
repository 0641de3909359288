"""asv benchmarks. The tree mirrors the package's. Lower is better everywhere.

asv runs these files on old commits too, so nothing of the package is imported before a `setup`. A benchmark of a
feature that an old commit lacks is skipped there (`NotImplementedError` in a setup).
"""
