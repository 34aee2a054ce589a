"""What a run will take: memory, disk, tokens, operations, hours; before it begins. Imports no torch
and asks no network."""
