"""A run to be looked at: what its folder holds as small pieces of data, the page that shows them,
and the server that hands both out. Nothing here writes into a run."""
