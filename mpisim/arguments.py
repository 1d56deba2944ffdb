"""Command lines whose mistakes are told in one line."""

import argparse
from typing import NoReturn

from mpisim.errors import InputError


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that raises InputError where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        """Raise the error of a command line."""
        raise InputError(f"{message} (--help lists the options)")
