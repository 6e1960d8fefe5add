# SPDX-License-Identifier: Apache-2.0
"""How ``edgepaas up`` makes the processes of the chain: each a program of its own."""

from collections.abc import Mapping, Sequence

from edgepaas.supervisor.stage_processes import spawn


class Launcher:
    """Starts each stage, and the service, as a program.

    :class:`~edgepaas.supervisor.forked_stages.ForkingLauncher` does it faster.
    """

    def __init__(self, program: Sequence[str], environ: Mapping[str, str]) -> None:
        self._program = tuple(program)
        self._environ = environ

    def prepare_round(self) -> None:
        """The chain will run again soon: the service has said that it is about to end."""

    def begin_round(self) -> None:
        """The chain is about to run."""

    def start_stage(self, stage: str, variables: Mapping[str, str]) -> int:
        """Start a stage that ends by itself; returns its process id.

        *variables* come on top of the environment. Raises OSError.
        """
        return spawn([*self._program, stage], dict(self._environ) | dict(variables))

    def start_service(
        self,
        arguments: Sequence[str],
        variables: Mapping[str, str],
        *,
        sockets: Sequence[int],
        others: Sequence[int],
    ) -> int:
        """Start the stage that stays, as :func:`spawn` does; returns its process id.

        *variables* come on top of the environment. Raises OSError.
        """
        environ = dict(self._environ) | dict(variables)
        return spawn([*self._program, *arguments], environ, sockets=sockets, others=others)

    def record_exit(self, pid: int, status: int) -> bool:
        """Take note that the process *pid* ended; whether it was one that waits in here."""
        del pid, status
        return False

    def end_round(self) -> None:
        """The chain has ended, wherever it came to: nothing is left of it in here."""
