"""Commands that show what a stage has on disk."""
