# SPDX-License-Identifier: Apache-2.0
"""Bringing the hub's schema to head: ``edgepaas schema --hub``, a child of the drainer.

Migrations need Alembic and the application's models, which the drainer never loads; the
child has them for as long as it takes.
"""

import logging
from collections.abc import Mapping, Sequence

from edgepaas.errors import EXIT_DECIDE_AGAIN, EXIT_DONE
from edgepaas.sync.errors import HubError, HubUnreachable
from edgepaas.sync.shutdown import StopRequest

logger = logging.getLogger("edgepaas.sync")

_LOOK_EVERY = 0.2
_LONGEST_REASON = 500


class SchemaBlocked(HubError):
    """The hub's schema does not fit and cannot be made to; the message says why."""


class HubSchemaUpgrade:
    """Knows whether the hub's schema was seen at head, and sees to it."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        stop: StopRequest,
        *,
        at_head: bool,
    ) -> None:
        """*command*: the program and ``schema --hub``; *at_head*: a stage has just seen to it."""
        self._command = list(command)
        self._environ = dict(environ)
        self._stop = stop
        self.at_head = at_head

    def bring(self) -> None:
        """Run the child and wait for it.

        Raises SchemaBlocked when it fails, HubUnreachable when it wants a new decision,
        Stopped when the end is asked for meanwhile: it is told to end then.
        """
        import subprocess

        logger.info("bringing PostgreSQL's schema to head")
        child = subprocess.Popen(
            self._command,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output = b""
        try:
            while True:
                try:
                    output, _ = child.communicate(timeout=_LOOK_EVERY)
                    break
                except subprocess.TimeoutExpired:
                    self._stop.raise_if_requested()
        finally:
            if child.poll() is None:
                child.terminate()
        said = _last_line(output)
        if child.returncode == EXIT_DONE:
            logger.info("PostgreSQL's schema: %s", said)
            self.at_head = True
            return
        if child.returncode == EXIT_DECIDE_AGAIN:
            raise HubUnreachable(f"'edgepaas schema --hub': {said}")
        raise SchemaBlocked(
            f"PostgreSQL's schema does not fit: {said or f'exit status {child.returncode}'}; "
            f"'edgepaas schema --hub' tries again, by hand"
        )


def _last_line(output: bytes) -> str:
    """Return the last thing that was said, without the command's own name."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return " ".join(last.removeprefix("edgepaas: ").removeprefix("schema ").split())[
        :_LONGEST_REASON
    ]
