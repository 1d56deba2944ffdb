"""A run that stops after the first round it plays, as if its walltime were over then: ``one_round.py`` and options."""

import sys

from mpisim import run
from mpisim.keeping import Keeping
from mpisim.ranks import startup

Keeping.wants_to_stop = lambda _: True

if __name__ == "__main__":
    startup.end(run.main(sys.argv[1:]))
