"""One page of a folder's records: evidence, plots, commands, page."""
