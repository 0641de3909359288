"""Statistics as pure functions of numbers: calibration, discrimination, intervals, tests."""
