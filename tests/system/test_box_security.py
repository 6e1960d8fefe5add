# SPDX-License-Identifier: Apache-2.0
"""What is reachable, who can read the secrets, and what the service could write."""

import secrets
import threading
import time
from collections.abc import Iterator

import pytest

from tests.system.appliance import Appliance

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
SERVICE_USER = ("setpriv", "--reuid=edgepaas", "--regid=edgepaas", "--clear-groups")
OWN = ("/run/edgepaas", "/var/lib/edgepaas", "/var/log/edgepaas", "/var/spool/edgepaas")


@pytest.fixture(scope="module")
def box(installed: Appliance) -> Iterator[Appliance]:
    """A box that everything of this module looks at."""
    with Appliance("security", installed.package, template=installed) as box:
        box.client.wait_ready()
        yield box


def test_nothing_but_the_port_listens(box: Appliance) -> None:
    listening = box.sh("ss -H -ltun").split("\n")
    addresses = {line.split()[4] for line in listening if line.strip()}
    assert addresses == {"*:8080"}


def test_a_caller_from_beyond_the_box_needs_a_token_for_anything_but_health(
    box: Appliance,
) -> None:
    """Loopback may read; whoever comes through another address may not."""
    box.sh("ip link add dummy0 type dummy 2>/dev/null || ip link add dummy0 type bridge")
    box.sh("ip address add 10.99.0.1/24 dev dummy0; ip link set dummy0 up")
    client = box.client
    reading = {"device": "d", "metric": "m", "value": 1}
    assert client.request("POST", "/api/v1/readings", reading).status == 401
    client.host = "10.99.0.1"
    assert client.get("/health/ready").status == 200
    assert client.get("/api/v1/readings").status == 401
    assert client.request("POST", "/api/v1/readings", reading).status == 401


def test_secrets_appear_nowhere_that_others_can_read(box: Appliance) -> None:
    """Journal, unit properties, command lines while the chain runs, answers, files."""
    secret = secrets.token_hex(16)
    box.configure(
        DATABASE_URL=f"postgresql://edgepaas:{secret}@127.0.0.1:9/edgepaas",
        MAX_RETRIES="1",
        LOG_LEVEL="DEBUG",
        REDIS__PASSWORD=secret,
    )
    seen: list[str] = []
    done = threading.Event()

    def watch_command_lines() -> None:
        while not done.is_set():
            seen.append(box.sh("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' || true"))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch_command_lines)
    watcher.start()
    try:
        box.restart(word="fallback")
        box.client.get("/health/db")
    finally:
        done.set()
        watcher.join()
    assert secret in box.sh("cat /run/edgepaas/db.env"), "the secret is in use"
    places = {
        "journal": box.journal("-b", "-o", "verbose"),
        "systemctl show": box.sh("systemctl show --all 'edgepaas*'"),
        "systemctl status": box.sh("systemctl status --no-pager -n 1000 'edgepaas*' || true"),
        "command lines": "\n".join(seen),
        "environment of processes": box.exec(*NOBODY, "ps", "axeww").stdout,
        "/health/ready": str(box.client.get("/health/ready").body),
        "/health/db": str(box.client.get("/health/db").body),
        "/": str(box.client.get("/").body),
        "edgepaas status": box.exec(*NOBODY, "edgepaas", "status", check=False).stdout,
        "edgepaas settings": box.sh("edgepaas settings; edgepaas env --explain"),
        "log file": box.sh("cat /var/log/edgepaas/*"),
    }
    assert not [place for place, text in places.items() if secret in text]
    readable = box.exec(
        *NOBODY, "grep", "-rlsa", secret, "/etc", "/run", "/var", "/usr/share/edgepaas",
        check=False, timeout=120,
    )  # fmt: skip
    assert readable.stdout == ""


def test_other_users_can_read_none_of_the_private_files(box: Appliance) -> None:
    for path in ("/etc/edgepaas/edgepaas.env", *(f"{folder}/." for folder in OWN)):
        read = box.exec(*NOBODY, "cat" if path.endswith("env") else "ls", path, check=False)
        assert read.returncode != 0, path
    modes = box.sh(f"find {' '.join(OWN)} -perm /077 -printf '%m %p\\n'")
    assert set(modes.splitlines()) == {"711 /run/edgepaas", "644 /run/edgepaas/address"}


def test_an_ordinary_user_gets_status_and_a_clear_refusal_for_the_rest(box: Appliance) -> None:
    assert box.exec(*NOBODY, "edgepaas", "status").returncode == 0
    refused = box.exec(*NOBODY, "edgepaas", "token", "list", check=False)
    assert refused.returncode != 0
    assert "sudo edgepaas token" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_what_root_runs_leaves_no_file_that_the_service_cannot_use(box: Appliance) -> None:
    """Root becomes the service's user first, whatever the command."""
    box.sh("edgepaas status; edgepaas doctor || true; edgepaas verify || true; edgepaas settings")
    box.sh("edgepaas schema --check || true; edgepaas token list")
    assert box.sh(f"find {' '.join(OWN)} -not -user edgepaas") == ""


def test_the_service_user_can_write_only_its_own_folders(box: Appliance) -> None:
    """By the file system's permissions alone, before any sandbox."""
    writable = box.exec(
        *SERVICE_USER, "find", "/", "-xdev", "-not", "-path", "/proc/*", "(", "-type", "f", "-o",
        "-type", "d", ")", "-writable", "-print", check=False, timeout=120,
    ).stdout.split("\n")  # fmt: skip
    shared = ("/tmp", "/var/tmp", "/run/lock", "/dev")
    strange = [path for path in writable if path and not path.startswith((*OWN, *shared))]
    assert strange == []


def test_the_process_has_no_rights_and_sees_a_read_only_system(box: Appliance) -> None:
    pid = box.main_pid()
    status = box.sh(f"cat /proc/{pid}/status")
    assert "CapEff:\t0000000000000000" in status
    assert "CapBnd:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    for folder in ("/etc", "/usr", "/boot", "/var/cache", "/opt"):
        inside = ("nsenter", "-t", str(pid), "-m", "--", "touch", f"{folder}/x")
        written = box.exec(*inside, check=False)
        assert "Read-only file system" in written.stderr, folder
