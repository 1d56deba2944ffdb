"""A run that stops after the first round it plays, as if its walltime were over then: ``one_round.py`` and options."""

import sys

from mpisim import run
from mpisim.keeping import Keeping
from mpisim.ranks import startup

if __name__ == "__main__":  # not for whoever imports this to look for tests
    Keeping.wants_to_stop = lambda _: True
    startup.end(run.main(sys.argv[1:]))
