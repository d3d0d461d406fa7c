"""The signals that end a command: Ctrl-C, SIGTERM (systemd, Docker, Slurm) and SIGHUP (a closed terminal).

All of them raise KeyboardInterrupt, so that everything is closed in the same order.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_caught = _deferring = _pending = False
_received: signal.Signals | None = None


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first of these signals raise KeyboardInterrupt; later ones are ignored, because all is being closed.

    A signal that was ignored before stays so (`nohup`, background jobs). Inside another such block, and in a thread
    that is not the main one, nothing changes.
    """
    global _caught, _received, _pending
    if _caught or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in SIGNALS}
    _caught, _received = True, None
    try:
        for each in SIGNALS:
            if before[each] is not signal.SIG_IGN:
                signal.signal(each, _interrupt)
        yield
    finally:
        for each in SIGNALS:
            signal.signal(each, before[each])
        _caught, _pending, _received = False, False, None


@contextmanager
def deferred() -> Iterator[None]:
    """Let a signal interrupt after this block instead of in it: for writing, whose half is worse than none.

    Raises:
        KeyboardInterrupt: before the block, if a signal has come whose interrupt other code has swallowed, as Python
            does in callbacks and finalizers.
    """
    global _deferring, _pending
    if _deferring or threading.current_thread() is not threading.main_thread():
        yield
        return
    if _received is not None:
        raise KeyboardInterrupt
    _deferring = True
    try:
        yield
    finally:
        _deferring = False
    if _pending:
        _pending = False
        raise KeyboardInterrupt


def received() -> signal.Signals | None:
    """The signal that ends the command, if there was one: code that swallows KeyboardInterrupt can ask here."""
    return _received


def interrupt_main_thread() -> None:
    """Raise KeyboardInterrupt in the main thread, from another one."""
    for each in SIGNALS:
        if signal.getsignal(each) is _interrupt:
            signal.pthread_kill(threading.main_thread().ident or 0, each)
            return


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Restore the handlers of these signals after code that installs others, as Ray does.

    Such a handler of SIGTERM ends the process with SystemExit; here it becomes an interrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in SIGNALS}
    try:
        yield
    except SystemExit:
        _interrupt(signal.SIGTERM, None)
        raise KeyboardInterrupt from None
    finally:
        for each in SIGNALS:
            signal.signal(each, before[each])


def _interrupt(signum: int, frame: object) -> None:
    global _received, _pending
    if _received is None:
        _received, _pending = signal.Signals(signum), _deferring
        if not _deferring:
            raise KeyboardInterrupt
