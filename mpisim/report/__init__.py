"""The command that looks at logs: ``python -m mpisim.report --help``."""
