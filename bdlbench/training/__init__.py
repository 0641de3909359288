"""The one optimisation loop, the terms of an objective, and what was minimised."""
