"""Models behind servers: how one is asked, what it says, and how it answers."""
