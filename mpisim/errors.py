"""The exceptions that are told in one line: input that is wrong, and a disk that takes no more; and their wording."""

import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """The user's input is wrong.

    Its message is one line that says what is wrong, where, and what to do. The commands print that line and end with
    code 2; nothing on disk has been touched.
    """


def check_readable(path: Path, most: int) -> None:
    """Find out whether a file that the user names has an end, and not too far away; nothing is read.

    Parameters
    ----------
    most : int
        Bytes that it may have.

    Raises
    ------
    InputError
        If it is a pipe or a device, where reading might never end, or is larger.
    OSError
        If there is no such file.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise InputError(f"{path}: is {kind}: name a plain file")
    if found.st_size > most:
        raise InputError(f"{path}: has {found.st_size} bytes, more than {most} are not read")


class WriteError(OSError):
    """What a run keeps cannot be written; the message is one line that says where and why. The log is whole."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of what goes wrong inside, on disk, where it did: a log, or a folder of checkpoints."""
    try:
        yield
    except (FileExistsError, WriteError):  # a name that somebody took says enough
        raise
    except OSError as error:
        raise WriteError(
            f"cannot write {path}: {error.strerror or error}: once that is mended, the same command with --resume goes"
            " on"
        ) from error


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
