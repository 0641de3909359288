"""One file per entry, or per family of entries; the folder is the registry."""
