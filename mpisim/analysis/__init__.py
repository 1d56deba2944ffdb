"""Reading logs and answering questions from them. Needs neither MPI nor torch."""
