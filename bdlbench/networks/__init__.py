"""Layer rules, blocks, and the outputs of models."""
