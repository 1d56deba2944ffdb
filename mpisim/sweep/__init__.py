"""Many runs from one file: ``python -m mpisim.sweep --help``."""
