"""bdlbench: a benchmark and reproducibility suite for Bayesian deep learning."""
