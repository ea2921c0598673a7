"""What can go wrong, by what a caller can do about it.

Each class is also the builtin exception that Python code expects for it, so that ``except
FileNotFoundError`` and ``except OSError`` work as for local files.
"""

from __future__ import annotations


class CairnError(Exception):
    """An error of the cluster, or of a call to it.

    `hint` says how to fix it, where that is known; else it is None.
    """

    #: Whether the same call may succeed a moment later.
    is_retryable = False

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message

    def __reduce__(self):
        return type(self), (self.message, self.hint)


class NotFoundError(CairnError, FileNotFoundError):
    """There is no such checkpoint, file, ref or record."""


class ConflictError(CairnError):
    """The state of the cluster does not allow it: a moved ref, a protected checkpoint, no room."""


class StepExistsError(ConflictError, FileExistsError):
    """The step is committed with other content. Pass ``replace=True`` to write it again."""


class FencedError(ConflictError):
    """Another writer has taken over this upload: a higher attempt, another job or another process.

    A rank that gets this belongs to an earlier start of the job and must end.
    """


class QuarantinedError(ConflictError):
    """The checkpoint is in quarantine. Pass ``quarantined=True`` to read it all the same."""


class DeniedError(CairnError, PermissionError):
    """The key or the token does not allow it."""


class UnavailableError(CairnError, ConnectionError):
    """No node answers, or no leader can be found."""

    is_retryable = True


class DeadlineError(UnavailableError, TimeoutError):
    """The time limit is over."""


class BusyError(CairnError, ConnectionError):
    """The nodes have too much to do."""

    is_retryable = True


class DamagedError(CairnError, OSError):
    """Bytes cannot be read from any replica."""


class InvalidError(CairnError, ValueError):
    """An argument cannot be: a malformed address, an unknown name, a missing key."""


class LocalError(CairnError, OSError):
    """A local file cannot be read or written."""


class ProtocolError(CairnError):
    """The answer is not from a node, or from one of another release."""


class CancelledError(CairnError):
    """The call was cancelled."""


_CLASSES: dict[str, type[CairnError]] = {
    "busy": BusyError,
    "cancelled": CancelledError,
    "conflict": ConflictError,
    "damaged": DamagedError,
    "deadline": DeadlineError,
    "denied": DeniedError,
    "fenced": FencedError,
    "invalid": InvalidError,
    "local": LocalError,
    "not-found": NotFoundError,
    "protocol": ProtocolError,
    "quarantined": QuarantinedError,
    "step-exists": StepExistsError,
    "unavailable": UnavailableError,
}


def of_word(word: str, message: str, hint: str | None) -> CairnError:
    """The exception for an error of the extension module, which calls this."""
    return _CLASSES.get(word, CairnError)(message, hint)
