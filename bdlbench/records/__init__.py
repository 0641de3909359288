"""What a run leaves behind: files, their cells, folders and revisions, stored predictions."""
