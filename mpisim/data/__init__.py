"""Data sets, how they are dealt to the nodes, what is out of distribution in them, and how they travel."""
