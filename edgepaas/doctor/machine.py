# SPDX-License-Identifier: Apache-2.0
"""Examinations of the machine: clock, memory, disk, folders, port."""

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgepaas.doctor.findings import Finding
from edgepaas.files.paths import Paths
from edgepaas.health.clock import judge_clock
from edgepaas.health.disk import check_writable
from edgepaas.http_client import HttpFailure, fetch
from edgepaas.httpd.listen import ListenError, bind
from edgepaas.service.instance_locks import serving_process
from edgepaas.settings import Settings
from edgepaas.settings.own_url import url_at

#: Available memory below which the service becomes slow (a box needs 512 MB in all).
LEAST_MEMORY = 256 * 1024 * 1024
_FEW_INODES = 1000
#: The service manager, which holds the socket of a box that is installed.
_MANAGER = Path("/proc/1")
#: What every user may ask the manager; /proc/1/fd is for root to see.
_ASK_MANAGER = ("systemctl", "show", "--property=ActiveState,Listen", "edgepaas.socket")
#: TCP_LISTEN, as /proc/net/tcp shows it.
_LISTEN = "0A"
_MEMINFO = Path("/proc/meminfo")
#: Seconds for the service manager's answer.
_PATIENCE = 10.0


def clock() -> Finding:
    """Whether the wall clock can be trusted."""
    found = judge_clock()
    if found.trusted is False:
        advice = "set it ('timedatectl set-ntp true', or 'date -s'); readings are stamped with it"
        return Finding("clock", "warn", found.message, advice)
    return Finding("clock", "ok", found.message)


def memory() -> Finding:
    """Whether there is enough memory for the service."""
    sizes = {}
    for line in _MEMINFO.read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    total, free = sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemFree"])
    message = f"{free >> 20} of {total >> 20} MiB available"
    if free < LEAST_MEMORY:
        return Finding("memory", "warn", message, "stop other programs on the box, or add memory")
    return Finding("memory", "ok", message)


def disk(paths: Paths, settings: Settings) -> list[Finding]:
    """Whether state, logs and spool can be written, and how full their file systems are."""
    findings = []
    least, threshold = settings.size("DISK_MIN_FREE"), settings.number("DISK_THRESHOLD")
    for name, folder in _folders(paths):
        if not folder.is_dir():
            continue  # reported by permissions()
        message = check_writable(folder, least)
        usage = shutil.disk_usage(folder)
        used = 100 * usage.used / usage.total if usage.total else 0.0
        free_inodes = os.statvfs(folder).f_favail
        if used >= threshold:
            message = f"{message}; {used:.0f} % used, DISK_THRESHOLD is {threshold:g} %"
            findings.append(Finding(f"disk ({name})", "warn", message, f"make room near {folder}"))
        elif os.statvfs(folder).f_files > 0 and free_inodes < _FEW_INODES:
            message = f"only {free_inodes} more files can be created in {folder}"
            findings.append(Finding(f"disk ({name})", "warn", message, "delete files there"))
        else:
            findings.append(Finding(f"disk ({name})", "ok", message))
    return findings


def permissions(paths: Paths) -> list[Finding]:
    """Whether this user, and no other one, has access to the folders and secrets."""
    findings = []
    for name, folder in _folders(paths):
        if not folder.is_dir() and name == "state" and paths.db_contract.exists():
            advice = (
                "bring it back from a backup if there is one, then 'systemctl restart edgepaas'"
            )
            message = f"{folder} was deleted while the box ran, with what it held"
            findings.append(Finding(f"folder {name}", "fail", message, advice))
        elif not folder.is_dir():
            advice = "the boot chain creates it: 'edgepaas up', or 'systemctl start edgepaas'"
            message = f"{folder} does not exist yet"
            findings.append(Finding(f"folder {name}", "warn", message, advice))
        elif not os.access(folder, os.W_OK | os.X_OK):
            advice = f"'chown -R {_user()} {folder}'"
            message = f"{folder} cannot be written by {_user()}"
            findings.append(Finding(f"folder {name}", "fail", message, advice))
        else:
            findings.append(Finding(f"folder {name}", "ok", f"{folder} can be written"))
    for file in (paths.env_contract, paths.db_contract, paths.tokens, paths.env_file):
        if (finding := _secret_file(file)) is not None:
            findings.append(finding)
    return findings


def _secret_file(file: Path) -> Finding | None:
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return None
    if not os.access(file, os.R_OK):
        advice = f"'chown {_user()} {file}'"
        return Finding("permissions", "fail", f"{file} cannot be read by {_user()}", advice)
    if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        message = f"{file} may hold secrets, and other users have access ({stat.filemode(mode)})"
        return Finding("permissions", "warn", message, f"'chmod 600 {file}'")
    return None


def port(paths: Paths, settings: Settings) -> Finding:
    """Whether the port is free, or used by this box's own service."""
    host, number = settings.text("HOST"), settings.integer("PORT")
    try:
        for sock in bind(host, number, patience=0.0):
            sock.close()
    except ListenError as error:
        process = serving_process(paths)
        if process is not None and _is_edgepaas(host, number):
            by = f", process {process}" if process else ""
            return Finding("port", "ok", f"{number} is in use by this box's own service{by}")
        if own_socket_waits(number):
            message = f"edgepaas.socket holds {number} open, and no service answers there"
            advice = "the findings above say why; else 'journalctl -u edgepaas'"
            return Finding("port", "fail", message, advice)
        return Finding(
            "port", "fail", str(error), "set another PORT, or stop the program that uses it"
        )
    return Finding("port", "ok", f"{host}:{number} is free")


def own_socket_waits(
    number: int, *, holder: Path = _MANAGER, ask: Sequence[str] = _ASK_MANAGER
) -> bool:
    """Whether the service manager, which is no other program, listens on the port *number*.

    Its descriptors are for root to see; everybody else asks it whether the box's own unit does.
    """
    held = set()
    try:
        for entry in (holder / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                held.add(str(entry.readlink()))
    except OSError:
        return _unit_listens(number, ask)
    return any(f"socket:[{inode}]" in held for inode in _listening_inodes(number))


def _unit_listens(number: int, ask: Sequence[str]) -> bool:
    try:
        said = subprocess.run(
            ask, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE,
            check=False,
        ).stdout.splitlines()  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # no systemd here, or it does not answer
        return False
    return "ActiveState=active" in said and any(
        line.startswith("Listen=") and line.split()[0].endswith(f":{number}") for line in said
    )


def _listening_inodes(number: int) -> list[str]:
    """Return the inodes of the sockets that listen on the port *number* (proc(5))."""
    found = []
    for name in ("tcp", "tcp6"):
        try:
            lines = (Path("/proc/net") / name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == number:
                found.append(fields[9])
    return found


def _is_edgepaas(host: str, number: int) -> bool:
    url = f"{url_at(host, number)}/health/live"
    try:
        answer = fetch("GET", url, deadline=2.0, most_bytes=1000)
    except HttpFailure:
        return False
    return answer.status == 200 and b"status" in answer.body


def _folders(paths: Paths) -> list[tuple[str, Path]]:
    return [
        ("runtime", paths.runtime),
        ("state", paths.state),
        ("logs", paths.logs),
        ("spool", paths.spool),
    ]


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
