"""
Every error kubeway raises on purpose, on one page.

The name says whose fault it is: the user's, the cluster's, this kernel's, the
plane's, the bytes', or the conversation's. Code that catches one of them knows
what to do next without reading the message; the message is for the person.
"""

from __future__ import annotations


class KubewayError(Exception):
    """Base of all of them; never raised itself."""


class BadInput(KubewayError):
    """The user's: a flag, a file. Says where it is and what would be right."""


class BadObject(KubewayError):
    """The cluster's: this object cannot be honoured. It is left out and the rest goes on."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class Unsupported(KubewayError):
    """This kernel's: which feature is missing, and since which version it exists."""


class Refused(KubewayError):
    """The plane's: it was asked for a change and said no.

    `errno` is the kernel's number; `change` describes the refused change, `origin`
    the service port it came from and `key` is the object's, where they are known.
    """

    def __init__(
        self, words: str, errno: int, change: str = "", origin: str = "", key: object = None
    ) -> None:
        super().__init__(words)
        self.key = key
        self.words = words
        self.errno = errno
        self.change = change
        self.origin = origin

    def __str__(self) -> str:
        parts = [f"refused: {self.change}" if self.change else "refused", f"-> {self.words}"]
        if self.origin:
            parts.append(f"(of {self.origin})")
        return " ".join(parts)


class Unknowable(KubewayError):
    """A program's: nobody can say where a packet ends, as it holds what kubeway does not use."""


class Stale(KubewayError):
    """The plane changed under us since it was last looked at (ERESTART); nothing was applied."""


class Malformed(KubewayError):
    """Bytes that could not be read. The only error `kubeway.wire` raises."""


class Lost(KubewayError):
    """A conversation that broke: the answer, if there was one, is lost. Read before the next write."""
