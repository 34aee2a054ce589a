"""Stored logs of lm-eval, lighteval and inspect: what they hold, graded as butwait grades."""
