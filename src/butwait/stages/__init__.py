"""The kinds of stage, and what a stage runs with."""
