"""What a set of solutions looks like, and how two sets differ."""
