"""Is a tree, or a record, what it was? Bits, objectives, quality, speed."""
