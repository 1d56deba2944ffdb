"""What travels between ranks in a round: models, the mean model, and the round's results."""
