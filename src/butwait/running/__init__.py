"""How work is run: files that appear whole, progress, maps over problems, stage folders."""
