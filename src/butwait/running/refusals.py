"""What a disk or the operating system refuses, in a sentence, whatever a library makes of it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from butwait.records import UserError

_SHORTAGES = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space"),
    errno.EFBIG: ("a file would be larger than is allowed (ulimit -f)", "raise the limit"),
    errno.EROFS: ("the file system is read-only", "make it writable, or choose another folder"),
    errno.EIO: ("the disk reports an input/output error", "see to the disk"),
    errno.ESTALE: ("the network file system has lost a file", "mount it again"),
    errno.EMFILE: ("this process has too many open files (ulimit -n)", "raise the limit"),
    errno.ENFILE: ("this machine has too many open files", "close some"),
    errno.ENOMEM: ("the machine is out of memory", "free some"),
}
"""Error numbers of what would succeed at another time: what, and how to mend it. Nothing that is on
disk is to blame."""

_MISTAKES = {
    errno.EACCES: ("permission is denied", "mend the permissions"),
    errno.EPERM: ("permission is denied", "mend the permissions"),
    errno.ENAMETOOLONG: ("a name is too long for the file system", "choose a shorter one"),
    errno.ENOTDIR: ("a file stands where a folder is meant", "move it away"),
    errno.EEXIST: ("a file stands where a folder is meant", "move it away"),
    errno.EISDIR: ("a folder stands where a file is meant", "move it away"),
    errno.ENOENT: ("a file or folder is gone", "put it back, or remove what it belonged to"),
    errno.ELOOP: ("symbolic links lead back to themselves", "mend them"),
}

_TORCH = ("PytorchStreamWriter failed", "unexpected pos ")
"""What ``torch.save`` says, which knows no reason."""


@contextmanager
def refusals_told(what: str, *, mistakes: bool = True) -> Iterator[None]:
    """Turns what the disk or the system refuses in the block into a UserError. One that already
    stands for such a refusal, and blames a file for it, is told anew.

    Args:
        what: could not be done, for the sentence: ``runs/mine was not written``.
        mistakes: whether to tell what would fail at any time too, a missing file for example.
    """
    try:
        yield
    except Exception as error:
        told = refusal(error, what)
        if told is None or not (mistakes or _shortage(error)):
            raise
        raise UserError(told) from error


def refusal(error: BaseException, what: str) -> str | None:
    """The sentence for an error that the disk or the system is the cause of; None for another.
    ``what`` could not be done."""
    if isinstance(error, UserError):
        found = _shortage(error.__cause__)
        if found is None or found[0] in str(error):
            return None
    else:
        found = _shortage(error) or _mistake(error)
    if found is None:
        return None
    why, remedy = found
    return f"{why}: {what}; {remedy} and run the same command again (finished work is kept)"


def _shortage(error: BaseException | None) -> tuple[str, str] | None:
    """Of an error or of what it was made from."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number in _SHORTAGES:
            return _SHORTAGES[number]
        if found := _in_words(str(error)):
            return found
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _in_words(text: str) -> tuple[str, str] | None:
    """Of a library that knows no error numbers, or has lost them."""
    for number, found in _SHORTAGES.items():
        if os.strerror(number) in text:
            return found
    if any(sign in text for sign in _TORCH):
        return "the disk is full, or a limit of it is reached", "free some space"
    return None


def _mistake(error: BaseException) -> tuple[str, str] | None:
    if not isinstance(error, OSError) or error.errno in (None, errno.EPIPE):
        return None  # A reader of our output that has gone is no mistake.
    why, remedy = _MISTAKES.get(error.errno, (f"the system says {error.strerror!r}", "mend it"))
    file = error.filename2 or error.filename  # of a rename, the new name
    return f"{why} ({file})" if file else why, remedy
