"""Files that a run writes: records, their cells, their folders and revisions, stored predictions."""
