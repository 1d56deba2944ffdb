"""How fast mpisim is, against what one would compare it with: ``python -m mpisim.bench --help``."""
