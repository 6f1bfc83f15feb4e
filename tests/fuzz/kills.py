"""Kills at file operations: a command in a process of its own that dies before its n-th one.

The process is a fork, so nothing is imported again. Python tells an audit hook of every file that
is opened for writing, renamed, made or removed, before it happens; there SIGKILL is sent, as the
system does when memory runs out.
"""

import os
import signal
import sys
import traceback

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link")
NOTHING = 10**9
"""More operations than any command has: it is not killed."""


def run(command, folder, kill_at=NOTHING):
    """Run ``command()`` -> its exit code, and the operations on files below ``folder``.

    The code is -9 where it was killed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 70
        try:
            _silence()
            count = _watch(str(folder), kill_at)
            code = command()
            os.write(writing, str(count()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        operations = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), int(operations or 0)


def _silence():
    sys.stdout = open(os.devnull, "w")


def _watch(folder, kill_at):
    """Count operations on files below ``folder``; die before number ``kill_at``."""
    count = 0

    def hook(event, arguments):
        nonlocal count
        if event == "open":
            path, mode, flags = arguments
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not changes or not isinstance(path, str | bytes | os.PathLike):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if os.path.abspath(os.fsdecode(path)).startswith(folder):
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    sys.addaudithook(hook)
    return lambda: count
