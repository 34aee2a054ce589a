"""What runs at a time: how much of it the cache holds, and that the rows stay full."""
