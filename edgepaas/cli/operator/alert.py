# SPDX-License-Identifier: Apache-2.0
"""``edgepaas alert``: raise an alert by hand, from a script or from a unit."""

import argparse
import sys

from edgepaas.errors import EXIT_DONE, UsageError

DESCRIPTION = """\
Raise an alert: it is kept in the spool, durably, before this command ends;
edgepaas-alerts.service, or what 'edgepaas up' runs, delivers it. Works with the service down,
the database gone and the settings unreadable.

Alerts of one --fingerprint are one with a count. A warning or a critical one holds until
it is resolved: 'edgepaas alert "all is well" --fingerprint NAME --resolve'.

exit status: 0 the alert is kept, 1 it could not be; the message gives the reason.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "text", metavar="TEXT", help="what happened, since when, what to do; - reads it from stdin"
    )
    parser.add_argument("--severity", choices=("info", "warning", "critical"), default="warning",
                        help="how severe it is (default: warning)")  # fmt: skip
    parser.add_argument(
        "--fingerprint", default="", metavar="NAME", help="the cause, the same each time"
    )
    parser.add_argument(
        "--origin",
        default="edgepaas alert",
        help="the part that raises it (default: edgepaas alert)",
    )
    parser.add_argument(
        "--resolve",
        action="store_true",
        help="resolve what was raised under --fingerprint",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing when it was kept")


def run(arguments: argparse.Namespace) -> int:
    """Keep the alert; raises NotSpooled when that is not possible."""
    from edgepaas.alerts.spool.accept import Spool
    from edgepaas.alerts.spool.stand_in import accept_anywhere, stand_in
    from edgepaas.files.paths import find_paths

    # As much as is kept of a message, and enough to see that there was more.
    text = sys.stdin.read(4096) if arguments.text == "-" else arguments.text
    if not text.strip():
        raise UsageError("the alert has no text: say what happened, and what to do")
    if arguments.resolve and not arguments.fingerprint:
        raise UsageError("--resolve needs the --fingerprint under which it was raised")
    paths = find_paths()
    spools = [Spool(one) for one in (paths, stand_in(paths))]
    if arguments.resolve and not any(one.is_raised(arguments.fingerprint) for one in spools):
        if not arguments.quiet:
            print(f"nothing is raised under {arguments.fingerprint}")
        return EXIT_DONE
    alert = accept_anywhere(
        paths,
        lambda spool: spool.accept(
            text,
            severity="info" if arguments.resolve else arguments.severity,
            fingerprint=arguments.fingerprint,
            origin=arguments.origin,
            resolved=arguments.resolve,
        ),
    )
    if not arguments.quiet:
        kept = next((s for s in spools if (s.folders.new / alert.name).exists()), spools[0])
        print(f"accepted: {kept.folders.new / alert.name}")
    return EXIT_DONE
