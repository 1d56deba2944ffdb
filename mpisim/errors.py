"""The one exception for input that is wrong, the line that tells it, and the wording of an unknown name."""

from collections.abc import Iterable


class InputError(ValueError):
    """The user's input is wrong.

    Its message is one line that says what is wrong, where, and what to do. The commands print that line and end with
    code 2; nothing on disk has been touched.
    """


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> InputError:
    """Return the error for a name that is in no registry.

    >>> unknown_name("strategy", "degre", ["degree", "betweenness"])
    InputError("unknown strategy 'degre': choose from betweenness, degree")
    """
    return InputError(f"unknown {kind} {name!r}: choose from {', '.join(sorted(choices))}")


def line_of(error: InputError) -> str:
    r"""Return what a command says of wrong input: one line, whatever the user wrote or a file is called.

    >>> print(line_of(InputError("run\n.h5: no such log")))
    mpisim: run\n.h5: no such log
    """
    shown = (character if character.isprintable() else ascii(character)[1:-1] for character in str(error))
    return f"mpisim: {''.join(shown)}"
