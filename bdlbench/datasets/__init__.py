"""Data sets with fixed splits and out-of-distribution sets, one file per family."""
