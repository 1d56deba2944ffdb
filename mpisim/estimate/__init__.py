"""The estimate: what a run will take on a number of ranks, before there are that many."""
