# SPDX-License-Identifier: Apache-2.0
"""Keep of the byte-code what a start needs; run as root while the image is built.

Byte-code of everything would be a third of the image, and most of it is never loaded. So
the box is run here once, for real, and only what was loaded then is kept. A module without
byte-code works as well; it is compiled whenever it is imported. Byte-code of libraries is kept
without docstrings, as 'python -OO' has it, but with its assertions: a fifth of it less, on
disk and in memory. Of the sources nothing goes but what no program of the image could want.
Nothing else goes but libraries that nothing is linked to, what a library's metadata repeats of
its README, and checksums of what has gone.
"""

import ast
import http.client
import importlib.metadata
import marshal
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
#: Tests of Python and of libraries, the texts of help(), turtle graphics, a translator of
#: Python 2, what stands in for modules in C, the time zones, which Debian's tzdata has as well,
#: databases that no driver is here for, SQLAlchemy for asyncio, which greenlet is missing for,
#: NIS, what developers use, Python's examples of modules in C, completion for shells, of which none
#: here asks for it, and the documents, which are read in the repository. Environments, which
#: need what Debian leaves out, Windows' installer, and lists of files for an uninstaller.
#: Modules that an application may use stay, whether or not EdgePaaS does.
NOT_NEEDED = (
    "lib/python3*/test", "lib/python3*/lib-dynload/_test*.so", "lib/python3*/pydoc_data",
    "lib/python3*/turtle.py", "lib/python3*/lib2to3", "lib/python3*/_pydecimal.py",
    "lib/python3*/_pyio.py", "lib/python3/dist-packages/psutil/tests",
    "lib/python3*/lib-dynload/nis.*.so", "share/edgepaas/lib/dateutil/zoneinfo/*.tar.gz",
    "share/edgepaas/lib/sqlalchemy/ext/mypy", "share/edgepaas/lib/sqlalchemy/testing",
    "share/edgepaas/lib/sqlalchemy/dialects/mssql", "share/edgepaas/lib/sqlalchemy/dialects/mysql",
    "share/edgepaas/lib/sqlalchemy/dialects/oracle", "share/edgepaas/lib/alembic/testing",
    "share/edgepaas/lib/tzdata/zoneinfo", "share/doc/edgepaas/docs",
    "share/edgepaas/lib/sqlalchemy/ext/asyncio", "bin/pygettext3*", "share/pixmaps", "lib/valgrind",
    "lib/python3*/lib-dynload/_ctypes_test.*.so", "lib/python3*/lib-dynload/_xxtestfuzz.*.so",
    "lib/python3*/lib-dynload/xxlimited*.so", "share/bash-completion/completions/edgepaas",
    "share/zsh/vendor-completions/_edgepaas", "share/fish/vendor_completions.d/edgepaas.fish",
    "lib/python3*/venv", "lib/python3*/msilib", "share/edgepaas/lib/*.dist-info/RECORD",
    "share/man/man*/edgepaas*",
)  # fmt: skip
#: Packages whose libraries nothing loads but Python's module for NIS: that and Kerberos under it.
ONLY_FOR_NIS = (
    "libnsl2", "libtirpc3", "libgssapi-krb5-2", "libkrb5-3", "libk5crypto3", "libkrb5support0",
    "libkeyutils1",
)  # fmt: skip
#: Of packages whose other library is needed: what nothing of the image is linked to. Expat for
#: wide characters; forms, menus and GNU History, which the modules curses and readline leave out.
NOT_LINKED = (
    "libexpatw.so.*", "libformw.so.*", "libmenuw.so.*", "libhistory.so.*",
)  # fmt: skip
#: Packages of one source each, which repeat its licences; Debian's names.
ONE_SOURCE = ("*python3*", "lib*k[r5]*")
#: Packages of which files are deleted here: the sums of those that were there are of no use.
NOT_WHOLE = ("edgepaas", "*python3*")
#: Loaded with Flask for a command line of its own, which nobody calls: 0.4 MB for 0.1 s. And with
#: SQLAlchemy, where a service has a stand-in for it (edgepaas.database.lean_import): 0.6 MB.
#: Mako writes new migrations; Alembic loads it where one runs, which few starts do: 0.3 MB.
NOT_KEPT = frozenset({"click", "asyncio", "mako"})
#: Loaded only where there is a PostgreSQL. Without Alembic: 2.6 MB that save a stage 0.2 s.
MODULES = (
    "edgepaas.decision.probe", "edgepaas.pgdriver.connection", "edgepaas.sync.delivery.drain",
    "edgepaas.sync.handback", "edgepaas.sync.mirror.mirror", "edgepaas.sync.worker", "pg8000.dbapi",
    "pg8000.native", "sqlalchemy.dialects.postgresql.pg8000",
)  # fmt: skip
#: What the API says of itself stands in the docstrings of its views and schemas, those of installed
#: applications among them; a command has a text of its own. SQLAlchemy asserts that each of its
#: events has one, to which it adds how it was called in older versions.
WITH_DOCSTRINGS = (
    "edgepaas/apikit", "edgepaas/app", "edgepaas/drill", "edgepaas/web", "sqlalchemy/**/events.py",
)  # fmt: skip
APPLICATIONS = "edgepaas.application"
HAVE_DOCSTRINGS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
#: Bytes of a byte-code file before the code: magic number, flags, time and size of the source.
HEADER = 16
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
    if not Path("/usr/share/zoneinfo/UTC").exists():
        raise SystemExit("slim: there is no tzdata of Debian's")
    for pattern in NOT_NEEDED:
        for path in Path(sys.prefix).glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for package in ONLY_FOR_NIS:
        without_libraries(package)
    for pattern in NOT_LINKED:
        for path in Path(sys.prefix).glob(f"lib/*-linux-*/{pattern}"):
            path.unlink()
    check_modules()
    for metadata in TREES[1].glob("*.dist-info/METADATA"):
        without_description(metadata)
    for pattern in ONE_SOURCE:
        once(sorted(Path("/usr/share/doc").glob(f"{pattern}/copyright")))
    without_checksums()
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
            ("GET", "/metrics", None), ("GET", "/", None),
        ):  # fmt: skip
            if not _answers(port, method, path, body):
                raise SystemExit(f"slim: {method} {path} failed")
        _answers(port, "GET", "/health/system")  # a builder that is busy answers 503
        for arguments in (["status"], ["alert", "built"], ["alerts", "list"], ["sync", "status"]):
            subprocess.run([command, *arguments], env=environ, stdout=subprocess.DEVNULL,
                           check=False)  # fmt: skip
    finally:
        box.send_signal(signal.SIGTERM)
        status = box.wait(LIMIT)
    if status != 0:
        raise SystemExit(f"slim: the box ended with {status}")


def with_docstrings(library: Path) -> set[Path]:
    """Return the files and folders of *library* whose byte-code keeps its docstrings."""
    applications = [
        point.module.replace(".", "/")
        for distribution in importlib.metadata.distributions(path=[str(library)])
        for point in distribution.entry_points
        if point.group == APPLICATIONS
    ]
    return {path for pattern in (*WITH_DOCSTRINGS, *applications) for path in library.glob(pattern)}


def keep(cache: Path) -> int:
    """Put the byte-code in *cache* beside its sources; returns of how many modules."""
    kept = 0
    documented = with_docstrings(TREES[1])
    for tree in TREES:
        for found in (cache / tree.relative_to("/")).rglob("*.pyc"):
            if found.parent.name in NOT_KEPT:
                continue
            folder = Path("/") / found.parent.relative_to(cache)
            source = folder / f"{found.name.partition('.')[0]}.py"
            target = folder / "__pycache__"
            target.mkdir(exist_ok=True)
            if source in documented or documented.intersection(source.parents):
                shutil.copyfile(found, target / found.name)
            else:
                (target / found.name).write_bytes(without_docstrings(source, found.read_bytes()))
            kept += 1
    return kept


def without_docstrings(source: Path, byte_code: bytes) -> bytes:
    """Return what *byte_code* of *source* is without docstrings, with the same header.

    The header (PEP 552) says which source it was made of, whose lines tracebacks still name.
    """
    tree = ast.parse(source.read_bytes(), str(source))
    for node in ast.walk(tree):
        if not isinstance(node, HAVE_DOCSTRINGS) or ast.get_docstring(node, clean=False) is None:
            continue
        first = node.body.pop(0)
        if not node.body and not isinstance(node, ast.Module):
            node.body.append(ast.copy_location(ast.Pass(), first))
    code = compile(tree, str(source), "exec", dont_inherit=True)
    return byte_code[:HEADER] + marshal.dumps(code)


def without_libraries(package: str) -> None:
    """Delete the shared libraries of *package*, where it is installed."""
    listed = subprocess.run(["dpkg-query", "--listfiles", package], capture_output=True, text=True,
                            check=False)  # fmt: skip
    for line in listed.stdout.splitlines():
        path = Path(line)
        if ".so." in path.name or path.suffix == ".so":
            path.unlink(missing_ok=True)


def without_checksums() -> None:
    """Delete the sums of the packages that are not whole any more."""
    for pattern in NOT_WHOLE:
        for sums in Path("/var/lib/dpkg/info").glob(f"{pattern}.md5sums"):
            sums.unlink()


def without_description(metadata: Path) -> None:
    """Leave of a library's METADATA the fields that programs read, and not its README below."""
    fields, _, _ = metadata.read_text(encoding="utf-8").partition("\n\n")
    metadata.write_text(f"{fields}\n", encoding="utf-8")


def check_modules() -> None:
    """Load each of Python's own modules in C; a library that one of them misses ends the build."""
    folder = next(Path(sys.prefix).glob("lib/python3*/lib-dynload"))
    names = sorted(path.name.partition(".")[0] for path in folder.glob("*.so"))
    loading = "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name)"
    # -B: the byte-code of what only this loads is not wanted.
    subprocess.run([sys.executable, "-IB", "-c", loading, *names], check=True)


def once(files: list[Path]) -> None:
    """Make files of the same content one file: the licence of each part of a package."""
    seen: dict[bytes, Path] = {}
    for path in files:
        if path.is_symlink() or path.parent.is_symlink():
            continue
        first = seen.setdefault(path.read_bytes(), path)
        if first != path:
            path.unlink()
            path.hardlink_to(first)


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
