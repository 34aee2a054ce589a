"""Commands about evaluations that are there, and about one that is planned."""
