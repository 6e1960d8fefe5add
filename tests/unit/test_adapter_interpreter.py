# SPDX-License-Identifier: Apache-2.0
"""The contract with Python's own insides: what edgepaas.supervisor.interpreter_adapter uses."""

import subprocess
import sys

PROGRAM = """
import atexit, os, sys, threading, time
from edgepaas.supervisor.interpreter_adapter import end_interpreter

def work():
    time.sleep(0.2)
    print("thread")

atexit.register(print, "registered first")
atexit.register(print, "registered last")
if os.fork() == 0:
    threading.Thread(target=work).start()
    end_interpreter()
    os._exit(7)
_, status = os.wait()
print("status", os.waitstatus_to_exitcode(status))
os._exit(0) if sys.stdout.flush() is None else None
"""


def test_a_forked_process_waits_for_its_threads_and_runs_its_exit_functions_once() -> None:
    """Its output is written, and the exit status is the one that it gives."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines == ["thread", "registered last", "registered first", "status 7"]
