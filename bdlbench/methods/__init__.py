"""Inference methods, one file each: MLE to variational and collected posteriors; the folder is the registry."""
