"""The topology and what follows from it: centralities, mixing matrices, placement. No torch and no MPI in here."""
