"""Waiting for calls, on a thread or in an event loop."""

from __future__ import annotations

import asyncio
import atexit
import time
from collections.abc import Callable
from typing import Any

from . import _cairn, records
from ._cairn import Call
from ._requests import Request
from .errors import DeadlineError

#: Between two reports of progress, seconds.
PROGRESS_PERIOD = 0.1

ProgressTold = Callable[[records.Progress], None]

# Buffers of running calls must be returned while Python still runs.
atexit.register(_cairn.stop)


def result_of(
    request: Request, progress: ProgressTold | None = None, timeout: float | None = None
) -> Any:
    """Waits on this thread. An exception of a signal's handler or of `progress` ends the call."""
    call = request.call
    end = None if timeout is None else time.monotonic() + timeout
    try:
        while not call.wait(_slice(progress, end)):
            if progress is not None:
                progress(records.Progress(*call.progress()))
            if end is not None and time.monotonic() >= end:
                raise DeadlineError(f"no result after {timeout} s")
    except BaseException:
        call.cancel()
        raise
    result = request.convert(call.result())
    if progress is not None:
        progress(records.Progress(*call.progress()))
    return result


def _slice(progress: ProgressTold | None, end: float | None) -> float | None:
    period = None if progress is None else PROGRESS_PERIOD
    if end is None:
        return period
    left = max(0.0, end - time.monotonic())
    return left if period is None else min(left, period)


async def result_in_loop(
    request: Request, progress: ProgressTold | None = None, timeout: float | None = None
) -> Any:
    """Waits in the event loop. The call ends if the task that waits is cancelled."""
    call = request.call
    try:
        async with asyncio.timeout(timeout):
            ended = _ended(call)
            while progress is not None:
                done, _ = await asyncio.wait([ended], timeout=PROGRESS_PERIOD)
                if done:
                    break
                progress(records.Progress(*call.progress()))
            await ended
    except TimeoutError as error:
        call.cancel()
        raise DeadlineError(f"no result after {timeout} s") from error
    except BaseException:
        call.cancel()
        raise
    result = request.convert(call.result())
    if progress is not None:
        progress(records.Progress(*call.progress()))
    return result


def _ended(call: Call) -> asyncio.Future:
    """A future of this loop that is done once the call is. It has no result."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def in_loop() -> None:
        if not ended.done():
            ended.set_result(None)

    # A loop that is closed by now has nobody who waits: the extension ignores its error.
    call.when_done(lambda: loop.call_soon_threadsafe(in_loop))
    return ended
