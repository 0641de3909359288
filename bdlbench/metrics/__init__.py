"""Metrics, one file per family, each with unit and direction."""
