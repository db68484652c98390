"""What an error says, for people."""

import os


def in_words(error: Exception) -> str:
    """The whole message; for a file error, without the errno."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error).strip() or type(error).__name__
    if error.filename is None and (gone := no_folder()):  # of what looks for it
        return gone
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def first_line(error: Exception) -> str:
    """What comes first, where tracebacks of others or a manual may follow."""
    return in_words(error).splitlines()[0]


def in_a_line(error: Exception) -> str:
    """All of it in one line."""
    return " ".join(in_words(error).split())


def no_folder() -> str:
    """A line where the current folder has been removed, else ""."""
    try:
        os.getcwd()
    except OSError:
        return "the current folder has been removed; change to another one"
    return ""
