"""Keep of the byte-code what a start needs; run as root while the image is built.

Byte-code of everything would be a third of the image, and most of it is never loaded. So
the box is run here once, for real, and only what was loaded then is kept. A module without
byte-code works as well; it is compiled whenever it is imported. No source is removed, but
for parts of Debian's Python that no program of the image could want.
"""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = Path("/usr/bin/edgepaas")
#: Where byte-code is looked for; Python's own place for it is beside the sources.
TREES = tuple(map(Path, (sys.prefix + "/lib", "/usr/share/edgepaas/lib", "/usr/share/python3")))
#: Of /usr/lib/python3.*: its own tests, the texts of help(), turtle graphics, a translator of
#: Python 2. The modules that applications use stay, whether or not EdgePaaS does.
NOT_NEEDED = ("test", "pydoc_data", "turtle.py", "lib2to3")
#: Loaded only where there is a PostgreSQL, or an alert to deliver.
MODULES = (
    "alembic.command", "edgepaas.alerts.deliver", "edgepaas.alerts.webhook",
    "edgepaas.decision.probe", "edgepaas.postgres.connection", "edgepaas.schema.environment",
    "edgepaas.sync.drain", "edgepaas.sync.handback", "edgepaas.sync.mirror",
    "edgepaas.sync.worker", "pg8000.dbapi", "pg8000.native", "sqlalchemy.dialects.postgresql",
)  # fmt: skip
LIMIT = 120.0


def main() -> None:
    """Run the box, keep its byte-code, remove the rest; any failure ends the build."""
    before = _size()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        cache = folder / "cache"
        cache.mkdir(mode=0o777)
        cache.chmod(0o777)
        # Isolated as ever, but it writes the byte-code of what it loads, to a place of its own.
        command = COMMAND.with_name("edgepaas-slim")
        _, _, rest = COMMAND.read_text(encoding="utf-8").partition("\n")
        options = f"-I -X pycache_prefix={cache}"
        command.write_text(f"#!/usr/bin/env -S python3 {options}\n{rest}", encoding="utf-8")
        command.chmod(0o755)
        try:
            warm_up(command, folder)
            imports = "; ".join(f"import {module}" for module in MODULES)
            subprocess.run(
                ["python3", *options.split(), "-c",
                 f"import sys; sys.path.insert(0, {str(TREES[1])!r}); {imports}"],
                check=True,
            )  # fmt: skip
        finally:
            command.unlink()
        for tree in TREES:
            for old in tree.rglob("__pycache__"):
                shutil.rmtree(old)
        kept = keep(cache)
    for library in (TREES[0]).glob("python3.*"):
        for part in NOT_NEEDED:
            path = library / part
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(f"slim: byte-code of {kept} modules kept; {(before - _size()) / 1e6:.1f} MB less")


def warm_up(command: Path, folder: Path) -> None:
    """Run the chain until it is ready, ask what probes and scrapers ask, and stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {
        "PATH": os.environ["PATH"], "EDGEPAAS_HOME": str(folder / "home"), "PORT": str(port),
        "ENV": "development", "LOG_FILE": "none",
    }  # fmt: skip
    box = subprocess.Popen([command, "up"], env=environ)
    try:
        deadline = time.monotonic() + LIMIT
        while not _answers(port, "GET", "/health/ready"):
            if box.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("slim: the box did not become ready")
            time.sleep(0.1)
        reading = b'{"device": "slim", "metric": "built", "value": 1}'
        for method, path, body in (
            ("POST", "/api/v1/readings", reading), ("GET", "/api/v1/readings", None),
            ("GET", "/metrics", None), ("GET", "/health/system", None), ("GET", "/", None),
        ):  # fmt: skip
            if not _answers(port, method, path, body):
                raise SystemExit(f"slim: {method} {path} failed")
        for arguments in (["status"], ["alert", "built"], ["alerts", "list"], ["sync", "status"]):
            subprocess.run([command, *arguments], env=environ, stdout=subprocess.DEVNULL,
                           check=False)  # fmt: skip
    finally:
        box.send_signal(signal.SIGTERM)
        status = box.wait(LIMIT)
    if status != 0:
        raise SystemExit(f"slim: the box ended with {status}")


def keep(cache: Path) -> int:
    """Move byte-code from *cache* to beside its sources; returns of how many modules."""
    kept = 0
    for tree in TREES:
        for found in (cache / tree.relative_to("/")).rglob("*.pyc"):
            source_folder = Path("/") / found.parent.relative_to(cache)
            target = source_folder / "__pycache__"
            target.mkdir(exist_ok=True)
            shutil.copyfile(found, target / found.name)
            kept += 1
    return kept


def _answers(port: int, method: str, path: str, body: bytes | None = None) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status < 400
    except OSError:
        return False
    finally:
        connection.close()


def _size() -> int:
    return sum(p.stat().st_size for tree in TREES for p in tree.rglob("*") if p.is_file())


if __name__ == "__main__":
    main()
