"""asv benchmarks: the tree mirrors the package's. Lower is better everywhere.

asv runs these files on old commits too, so nothing of the package is imported before a `setup`. What an old commit does
not have is skipped there (`NotImplementedError` in a setup).
"""
