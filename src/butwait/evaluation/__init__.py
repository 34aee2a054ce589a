"""Attempts at problems, what they add up to, and how two models compare."""
