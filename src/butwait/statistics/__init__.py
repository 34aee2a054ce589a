"""Intervals, tests and power for rates measured on problems: numpy and scipy only."""
