"""Pure functions of numbers: calibration, ranking, intervals, tests."""
