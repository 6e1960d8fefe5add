# SPDX-License-Identifier: Apache-2.0
"""``edgepaas env``: the environment stage; resolves the settings and writes ``run/env``."""

import argparse
import logging

from edgepaas.alerts.catalogue import SETTING
from edgepaas.alerts.conditions.raised_fingerprints import raised_fingerprints
from edgepaas.alerts.status import mark_waiting
from edgepaas.errors import EXIT_CONFIGURATION, EXIT_DONE, ConfigurationError
from edgepaas.files.contract import withdraw_contract
from edgepaas.files.paths import Paths, find_paths
from edgepaas.health.setting_problems import record_setting_problems
from edgepaas.hosting.settings import declared_by
from edgepaas.logs.redact import redact
from edgepaas.service.instance_locks import serving_process
from edgepaas.service.stage_failure import begin_stage
from edgepaas.settings.derive import SettingProblem
from edgepaas.settings.logs import start_logging
from edgepaas.settings.resolve import Resolution, resolve_box
from edgepaas.terminal import announce, print_json, print_table

DESCRIPTION = """\
Resolve the settings and write run/env, which every later stage reads.

Sources, highest first: the process environment, systemd credentials, the file of
settings (edgepaas.env), Vault or OpenBao, the defaults. A value that cannot be read is
reported and takes its default; the stage fails (78) only where no default is sane.
A service that is running takes new values only when it is started again.
"""

logger = logging.getLogger("edgepaas.env")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--explain",
        action="store_true",
        help="show each value, its source and what was changed; write nothing",
    )
    parser.add_argument(
        "--json", action="store_true", help="the same as one JSON document (implies --explain)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the stage, or explain what it would do."""
    paths = find_paths()
    if arguments.explain or arguments.json:
        return _explain(resolve_box(paths, declared_by), as_json=arguments.json)
    paths.create()
    begin_stage(paths, "env")
    withdraw_contract(paths.env_contract)
    resolution = resolve_box(paths, declared_by)
    start_logging(resolution.settings, paths)
    for finding in resolution.findings:
        if finding.severity == "warning":
            _report(finding)
    _resolve_others(resolution, paths)
    held = [_sentence(finding) for finding in resolution.findings if finding.alert]
    record_setting_problems(paths, [redact(sentence) for sentence in held])
    if resolution.errors:
        raise ConfigurationError("\n".join(_sentence(finding) for finding in resolution.errors))
    resolution.settings.write(paths.env_contract)
    mark_waiting(paths, waiting=True)  # alerts may go elsewhere from now on
    announce("environment", _summary(resolution, paths))
    if (process := serving_process(paths)) is not None:
        logger.warning(
            "the running service%s goes on with the values that it started with; restart it "
            "('systemctl restart edgepaas', or 'edgepaas up' again) to have it take these",
            f" (process {process})" if process else "",
        )
    return EXIT_DONE


def _report(finding: SettingProblem) -> None:
    if not finding.alert:
        logger.warning("%s", _sentence(finding))
    else:
        SETTING.raise_alert(_sentence(finding), subject=_subject(finding))


def _subject(finding: SettingProblem) -> str:
    return ",".join(finding.names)


def _resolve_others(resolution: Resolution, paths: Paths) -> None:
    """Resolve the alerts of settings that are in order by now."""
    wrong = {_subject(finding) for finding in resolution.findings if finding.alert}
    for fingerprint in raised_fingerprints(paths, SETTING.prefix):
        subject = SETTING.subject(fingerprint)
        if subject not in wrong:
            names = subject.replace(",", " and ")
            SETTING.resolve_alert(f"{names}: in order again", subject=subject)


def _sentence(finding: SettingProblem) -> str:
    names = " and ".join(finding.names)
    return f"{names}: {finding.message}" if names else finding.message


def _summary(resolution: Resolution, paths: Paths) -> str:
    settings = resolution.settings
    kinds = [source.partition(":")[0] for source in settings.sources.values()]
    counts = ", ".join(f"{kinds.count(kind)} from {kind}" for kind in dict.fromkeys(kinds))
    warnings = len(resolution.findings)
    said = f"; {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    return f"{settings.text('ENV')}: {counts or 'all defaults'}{said}; wrote {paths.env_contract}"


def _explain(resolution: Resolution, *, as_json: bool) -> int:
    from edgepaas.settings.render import explain_json, explain_rows

    if as_json:
        print_json(explain_json(resolution))
    else:
        print_table(("SETTING", "VALUE", "SOURCE", "CHANGED"), explain_rows(resolution))
        for finding in resolution.findings:
            print(f"\n{finding.severity}: {redact(_sentence(finding))}")
    return EXIT_CONFIGURATION if resolution.errors else EXIT_DONE
