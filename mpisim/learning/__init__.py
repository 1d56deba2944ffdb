"""Local learning: the device, the parameters matrix X, training in place, exact tests."""
