# SPDX-License-Identifier: Apache-2.0
"""Upgrading the hub's schema: runs ``edgepaas schema --hub`` as a child process.

Migrations need Alembic and the application's models, which the drainer never loads; the child
holds that memory only while it runs.
"""

import logging
from collections.abc import Mapping, Sequence

from edgepaas.errors import EXIT_DECIDE_AGAIN, EXIT_DONE
from edgepaas.sync.errors import HubError, HubUnreachable
from edgepaas.sync.shutdown import StopRequest

logger = logging.getLogger("edgepaas.sync")

_POLL_INTERVAL = 0.2
_MAX_REASON_LENGTH = 500


class SchemaBlocked(HubError):
    """The hub's schema does not fit and cannot be upgraded; the message says why."""


class HubSchemaUpgrade:
    """Remembers whether the hub's schema is at head, and upgrades it where it is not."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        stop: StopRequest,
        *,
        at_head: bool,
    ) -> None:
        """*command*: runs ``schema --hub``; *at_head*: the schema stage has just upgraded it."""
        self._command = list(command)
        self._environ = dict(environ)
        self._stop = stop
        self.at_head = at_head

    def run(self) -> None:
        """Run the child and wait for it.

        Raises SchemaBlocked when it fails, HubUnreachable when it exits with 75, Stopped when
        a stop is requested meanwhile; the child is terminated then.
        """
        import subprocess

        logger.info("upgrading PostgreSQL's schema")
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
                    output, _ = child.communicate(timeout=_POLL_INTERVAL)
                    break
                except subprocess.TimeoutExpired:
                    self._stop.raise_if_requested()
        finally:
            if child.poll() is None:
                child.terminate()
        message = _last_line(output)
        if child.returncode == EXIT_DONE:
            logger.info("PostgreSQL's schema: %s", message)
            self.at_head = True
            return
        if child.returncode == EXIT_DECIDE_AGAIN:
            raise HubUnreachable(f"'edgepaas schema --hub': {message}")
        raise SchemaBlocked(
            f"PostgreSQL's schema does not fit: {message or f'exit status {child.returncode}'}; "
            f"run 'edgepaas schema --hub' to try again"
        )


def _last_line(output: bytes) -> str:
    """Return the last line of *output*, without the command's own name."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return " ".join(last.removeprefix("edgepaas: ").removeprefix("schema ").split())[
        :_MAX_REASON_LENGTH
    ]
