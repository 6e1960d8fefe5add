# SPDX-License-Identifier: Apache-2.0
"""What is used of Python's own insides to end a forked process as a program ends.

A child of ``os.fork()`` cannot return through the frames of its parent, and ``os._exit()``
skips what an interpreter does at its end. ``multiprocessing.popen_fork`` and
``multiprocessing.util`` of the standard library call the same two functions:

- ``threading._shutdown()``: waits for the threads that are no daemons.
- ``atexit._run_exitfuncs()``: runs what was registered for the end, the last one first.

``tests/unit/test_adapter_interpreter.py`` fails when a new version changes them.
"""

import atexit
import sys
import threading


def end_interpreter() -> None:
    """Wait for the process's threads, run its exit functions, and flush its output."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
