"""What a data set is, fixed splits, downloads."""
