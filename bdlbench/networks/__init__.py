"""Layer rules, blocks of layers, and the outputs of models."""
