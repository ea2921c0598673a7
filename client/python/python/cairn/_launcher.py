"""What the program that started this process says of it: the job, and how often it was restarted.

The command line reads the same variables in the same way.
"""

from __future__ import annotations

import os
import socket

from .errors import InvalidError

_JOBS = ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID")
_HOST_CHARS_MAX = 48


def process() -> str:
    """This process, for another one that meets its upload."""
    return f"process {os.getpid()} on {socket.gethostname()[:_HOST_CHARS_MAX]}"


def user() -> str:
    """The user, for people who read who moved a ref."""
    name = os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid{os.getuid()}"
    return f"{name[:_HOST_CHARS_MAX]}@{socket.gethostname()[:_HOST_CHARS_MAX]}"


def job() -> str:
    """The name of the job, the same through its restarts; empty if it is not known."""
    if own := os.environ.get("CAIRN_JOB", ""):
        return own
    names = (os.environ.get(name, "").strip() for name in _JOBS)
    return next((name for name in names if name and name != "none"), "")


def given_attempt() -> int | None:
    """The attempt that ``CAIRN_ATTEMPT`` names."""
    return _number("CAIRN_ATTEMPT", 1 << 62)


def attempt() -> int | None:
    """The attempt of a part: the same for all ranks of a job, higher with each restart."""
    given = given_attempt()
    if given is not None:
        return given
    torch = _number("TORCHELASTIC_RESTART_COUNT", (1 << 32) - 1)
    slurm = _number("SLURM_RESTART_COUNT", 1 << 29)
    if torch is None and slurm is None:
        return None
    return ((slurm or 0) << 32) + (torch or 0) + 1


def _number(name: str, most: int) -> int | None:
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) >= most:
        raise InvalidError(f"{name} is {text!r}, not a number below {most}")
    return int(text)
