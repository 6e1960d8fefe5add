# SPDX-License-Identifier: Apache-2.0
"""What ``ps`` shows of a process that was forked and goes on as another command."""

import contextlib
from collections.abc import Sequence
from pathlib import Path


def set_process_title(words: Sequence[str]) -> None:
    """Show *words* as this process's command line, as far as there is room for them.

    They are written over the arguments that the kernel left on the stack (proc_pid_cmdline(5));
    Python has copies of its own. Where that is not allowed, ``ps`` shows the parent's.
    """
    # proc_pid_stat(5): arg_start and arg_end are the 48th and 49th field.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    text = "\0".join(words).encode()[: max(0, end - start - 1)]
    with contextlib.suppress(OSError), Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(text.ljust(end - start, b"\0"))
