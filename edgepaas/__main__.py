# SPDX-License-Identifier: Apache-2.0
"""``python -m edgepaas``: the same as the ``edgepaas`` command."""

import sys

from edgepaas.cli import main

if __name__ == "__main__":
    sys.exit(main())
