# SPDX-License-Identifier: Apache-2.0
"""``edgepaas up`` with something left out: ``up_without STAGE|SIDECAR up``, as a slip would."""

import sys

from edgepaas import cli
from edgepaas.supervisor import supervisor
from edgepaas.supervisor.sidecars import SIDECARS
from edgepaas.supervisor.stage_processes import CHAIN

if __name__ == "__main__":
    left_out = sys.argv.pop(1)
    chain = tuple(stage for stage in CHAIN if stage != left_out)
    setattr(supervisor, "CHAIN", chain)  # noqa: B010
    defaults = supervisor.Supervisor.__init__.__kwdefaults__
    assert defaults is not None
    defaults["sidecars"] = tuple(command for command in SIDECARS if command[0] != left_out)
    sys.exit(cli.main())
