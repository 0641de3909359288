"""Checks of a tree, of records and of entries: bits, objectives, quality, speed, contracts."""
