# SPDX-License-Identifier: Apache-2.0
"""``edgepaas up`` with something left out: ``up_without STAGE|SIDECAR up``, as a slip would."""

import sys

from edgepaas import cli
from edgepaas.supervisor import supervisor

if __name__ == "__main__":
    left_out = sys.argv.pop(1)
    supervisor.CHAIN = tuple(stage for stage in supervisor.CHAIN if stage != left_out)
    defaults = supervisor.Supervisor.__init__.__kwdefaults__
    defaults["sidecars"] = tuple(c for c in supervisor.SIDECARS if c[0] != left_out)
    sys.exit(cli.main())
