# SPDX-License-Identifier: Apache-2.0
"""The Debian package as 'make deb' builds it: what is in it, and that it is always the same."""

import contextlib
import gzip
import io
import os
import re
import shutil
import subprocess
import tarfile
import time
import tomllib
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgepaas import __version__
from edgepaas.cli import COMMANDS
from edgepaas.settings import SETTINGS
from tests.support.postgres_server import free_port
from tests.system.checkout import REPOSITORY, copy_checkout

PACKAGING = REPOSITORY / "packaging"
WHEELHOUSE = Path(os.environ.get("EDGEPAAS_WHEELHOUSE") or REPOSITORY / "build" / "wheelhouse")
PACKAGE = f"edgepaas_{__version__}_all.deb"
LIBRARY = "usr/share/edgepaas/lib"
STAGES = ("edgepaas-env.service", "edgepaas-dbdecide.service", "edgepaas-schema.service")
ALERTS = ("edgepaas-alerts.path", "edgepaas-alerts.timer")
BUILD_LIMIT = 600.0  # s; the first build downloads the libraries
#: Command: the Debian package that has it.
NEEDED = {"dh": "debhelper", "dh_python3": "dh-python", "lintian": "lintian"}
MISSING = sorted({package for command, package in NEEDED.items() if not shutil.which(command)})

builds = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@dataclass(frozen=True)
class Built:
    """A built package and its parts, unpacked."""

    file: Path
    root: Path

    @property
    def control(self) -> dict[str, str]:
        """The control file's fields; continuation lines are left out."""
        lines = (self.root / "DEBIAN" / "control").read_text(encoding="utf-8").splitlines()
        return dict(line.split(": ", 1) for line in lines if ": " in line and line[0] != " ")

    def script(self, name: str) -> str:
        """Return a maintainer script; empty when there is none."""
        path = self.root / "DEBIAN" / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def members(self) -> dict[str, tarfile.TarInfo]:
        """Return everything that is installed, by its path without a leading slash."""
        data = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", self.file], capture_output=True, check=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return {m.name.removeprefix("./").rstrip("/"): m for m in archive.getmembers()}

    def page(self, name: str) -> str:
        """Return a manual page's source, its escapes taken out."""
        path = self.root / "usr/share/man" / name
        return gzip.decompress(path.read_bytes()).decode("utf-8").replace("\\-", "-")


@pytest.fixture(scope="module")
def two_builds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The package built in two folders, under circumstances that have nothing in common."""
    first = copy_checkout(tmp_path_factory.mktemp("first") / "edgepaas")
    second = copy_checkout(tmp_path_factory.mktemp("second") / "another" / "place" / "for it")
    for path in second.rglob("*"):
        os.utime(path, (978307200, 978307200))  # 2001: older than any commit
    return (
        make_deb(first, umask=0o022, environ={"TZ": "UTC"}),
        make_deb(second, umask=0o077, environ={"TZ": "Asia/Tokyo", "LC_ALL": "C", "USER": "x"}),
    )


@pytest.fixture(scope="module")
def built(two_builds: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The package, unpacked."""
    root = tmp_path_factory.mktemp("unpacked") / "root"
    subprocess.run(["dpkg-deb", "--raw-extract", two_builds[0], root], check=True)
    return Built(two_builds[0], root)


@builds
def test_two_builds_are_the_same_bytes(two_builds: tuple[Path, Path]) -> None:
    """Folder, umask, time zone, language and the files' dates leave no trace."""
    assert two_builds[0].read_bytes() == two_builds[1].read_bytes()


@builds
def test_lintian_finds_neither_errors_nor_warnings(built: Built) -> None:
    """An override that nothing needs any more counts as a finding."""
    result = subprocess.run(
        ["lintian", "--fail-on", "error,warning", "--allow-root", "--no-cfg", built.file],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, "unused-override" in result.stdout) == (0, False), result.stdout


@builds
def test_the_package_is_for_every_cpu_and_holds_nothing_compiled(built: Built) -> None:
    """Byte-code is made at installation, by the Python that is there."""
    assert built.control["Architecture"] == "all"
    assert built.control["Version"] == __version__
    compiled = re.compile(r"\.(so(\..*)?|pyc|pyo|pyd|c|a|o)$")
    assert [name for name in built.members() if compiled.search(name)] == []
    elves = [p for p in built.root.rglob("*") if p.is_file() and p.read_bytes()[:4] == b"\x7fELF"]
    assert elves == []


@builds
def test_it_depends_only_on_what_debian_has(built: Built) -> None:
    """The libraries come along; what is compiled comes from the distribution."""
    names = {
        re.split(r"[ (:]", alternative.strip())[0]
        for alternative in re.split(r"[,|]", built.control["Depends"])
    }
    assert {"python3", "python3-psutil", "systemd"} <= names
    assert names <= {
        "python3", "python3-psutil", "systemd", "systemd-standalone-sysusers", "systemd-sysusers",
        "systemd-standalone-tmpfiles", "systemd-tmpfiles",
    }  # fmt: skip
    assert "python3 (>= 3.11)" in built.control["Depends"]


@builds
def test_everything_is_where_an_operator_looks(built: Built) -> None:
    """Units below /lib: debhelper on Debian 12 ignores those below /usr/lib."""
    members = built.members()
    units = {path.name for path in (REPOSITORY / "systemd").glob("*.*") if path.suffix in
             (".service", ".socket", ".path", ".timer", ".target")}  # fmt: skip
    assert {"edgepaas.service", "edgepaas.socket", *STAGES} <= units
    assert {f"lib/systemd/system/{unit}" for unit in units} <= set(members)
    expected = {
        "usr/bin/edgepaas", "etc/edgepaas/edgepaas.env", "usr/share/edgepaas/alembic",
        "lib/systemd/system-generators/edgepaas-generator", "usr/lib/sysusers.d/edgepaas.conf",
        "usr/lib/tmpfiles.d/edgepaas.conf", "lib/systemd/system-preset/90-edgepaas.preset",
        "usr/share/doc/edgepaas/copyright", "usr/share/man/man1/edgepaas.1.gz",
        "usr/share/man/man5/edgepaas.env.5.gz", "usr/share/doc/edgepaas/README.md",
        "usr/share/doc/edgepaas/SECURITY.md", "usr/share/doc/edgepaas/NOTICE",
        "usr/share/bash-completion/completions/edgepaas",
        "usr/share/zsh/vendor-completions/_edgepaas",
        "usr/share/fish/vendor_completions.d/edgepaas.fish",
        *(f"usr/share/doc/edgepaas/docs/{path.name}" for path in REPOSITORY.glob("docs/*.md")),
    }  # fmt: skip
    assert expected <= set(members)
    for script in (REPOSITORY / "alembic" / "versions").glob("*.py"):
        assert (built.root / "usr/share/edgepaas/alembic/versions" / script.name).is_file()
    assert {m.uname for m in members.values()} == {"root"}
    writable = [n for n, m in members.items() if not m.issym() and m.mode & 0o6022]
    assert writable == []


@builds
def test_the_file_of_settings_is_a_conffile_that_others_cannot_read(built: Built) -> None:
    """It is the code's own template, for production."""
    name = "etc/edgepaas/edgepaas.env"
    assert built.script("conffiles").split() == [f"/{name}"]
    assert built.members()[name].mode == 0o640
    text = (built.root / name).read_text(encoding="utf-8")
    assert [x for x in text.splitlines() if x and x[0] != "#"] == ["ENV=production"]
    missing = [setting for setting in SETTINGS if f"{setting}=" not in text]
    assert missing == []


@builds
def test_an_upgrade_restarts_the_service_behind_its_socket_and_no_stage(built: Built) -> None:
    """debhelper's snippets are there (it can drop them silently), one rule for each unit."""
    postinst = built.script("postinst")
    for unit in ("edgepaas.service", "edgepaas.socket", "edgepaas-sync.service", *ALERTS):
        assert f"deb-systemd-helper enable '{unit}'" in postinst
    lines = re.findall(r"deb-systemd-invoke (\S+) ([^\n]*) >", postinst)
    invoked = [(how, unit) for how, units in lines for unit in re.findall(r"'(\S+)'", units)]
    assert {unit for how, unit in invoked if how != "start"} == {"edgepaas.service", *ALERTS}
    assert {"edgepaas.socket", "edgepaas-sync.service"} <= {unit for _, unit in invoked}
    assert "_dh_action=restart" in postinst
    assert built.script("preinst") == ""  # nothing is stopped before the new files are there
    for name in ("postinst", "prerm", "postrm"):
        assert not [stage for stage in STAGES if stage in built.script(name)]


@builds
def test_removal_stops_the_socket_first(built: Built) -> None:
    """Or a caller between the two would start the service that was just stopped."""
    lines = re.findall(r"deb-systemd-invoke stop ([^\n]*) >", built.script("prerm"))
    stopped = [unit for line in lines for unit in re.findall(r"'(\S+)'", line)]
    assert stopped[0] == "edgepaas.socket"
    assert {"edgepaas.service", "edgepaas-sync.service", *ALERTS} <= set(stopped)


@builds
def test_installation_makes_the_user_and_the_folders_before_it_starts_anything(
    built: Built,
) -> None:
    """And it compiles the byte-code, which halves each start."""
    steps = ["systemd-sysusers", "py3compile -p edgepaas", "systemd-tmpfiles", "deb-systemd-invoke",
             "edgepaas token create"]  # fmt: skip
    places = [built.script("postinst").index(step) for step in steps]
    assert places == sorted(places)


@builds
def test_the_program_runs_from_the_unpacked_tree(built: Built, tmp_path: Path) -> None:
    """With nothing but the distribution's Python beside it, and leaves no byte-code behind."""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "EDGEPAAS_HOME": str(tmp_path / "b")}
    for arguments, expected in (
        (["--version"], f"edgepaas {__version__}"),
        (["--help"], "usage: edgepaas COMMAND"),
        (["env"], "environment"),
        (["dbdecide"], "standalone"),
        (["schema"], "fresh file"),
    ):
        result = subprocess.run(
            [built.root / "usr/bin/edgepaas", *arguments], env=environ, cwd="/", timeout=60,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert (result.returncode, expected in result.stdout) == (0, True), result.stdout
    assert list(built.root.rglob("__pycache__")) == []


@builds
def test_the_whole_chain_runs_from_the_unpacked_tree(built: Built, tmp_path: Path) -> None:
    """As in an image, where no service manager starts the stages: each finds the libraries."""
    port = free_port()
    environ = {
        "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "EDGEPAAS_HOME": str(tmp_path / "b"),
        "PORT": str(port), "HOST": "127.0.0.1",
    }  # fmt: skip
    log = tmp_path / "log"
    with log.open("wb") as output:
        up = subprocess.Popen(
            [built.root / "usr/bin/edgepaas", "up"], env=environ, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 60
        ready = False
        while not ready and up.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                address = f"http://127.0.0.1:{port}/health/ready"
                ready = urllib.request.urlopen(address, timeout=10).status == 200
            time.sleep(0.1)
        assert ready, log.read_text()
    finally:
        up.terminate()
        assert up.wait(60) == 0, log.read_text()


@builds
def test_every_library_of_the_lock_is_in_the_tree_and_in_the_copyright_file(built: Built) -> None:
    """Each with its metadata, by which entry points and versions are found."""
    present = {
        path.name.removesuffix(".dist-info").lower().replace("_", "-")
        for path in (built.root / LIBRARY).glob("*.dist-info")
    }
    assert present == {f"edgepaas-{__version__}", *(f"{n}-{v}" for n, v in locked())}
    notices = (built.root / "usr/share/doc/edgepaas/copyright").read_text(encoding="utf-8")
    named = {line.lower().replace("_", "-") for line in notices.splitlines()}
    assert {f"{name} {version}" for name, version in locked()} <= named


@builds
def test_the_manual_pages_name_every_command_and_every_setting(built: Built) -> None:
    """They are made from the code, so that they cannot fall behind it."""
    commands, settings = built.page("man1/edgepaas.1.gz"), built.page("man5/edgepaas.env.5.gz")
    assert [c for c in COMMANDS if f'.SS "edgepaas {c}"' not in commands] == []
    assert [s for s in SETTINGS if f"\\fB{s}\\fR" not in settings] == []


def test_the_lock_holds_one_hash_a_library_and_no_address() -> None:
    """An address of an index would tie the build to one network."""
    for lock in (PACKAGING / "python").glob("*.lock"):
        lines = [x for x in lock.read_text().splitlines() if x and not x.startswith("#")]
        assert [
            x for x in lines if not re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}", x)
        ] == []
        assert "://" not in lock.read_text()


def test_the_lock_covers_what_the_project_needs_at_the_tested_versions() -> None:
    """``make lock`` was run after pyproject.toml or the constraints changed."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {
        re.split(r"[<>=~!;\[ ]", x)[0].lower().replace("_", "-")
        for x in project["project"]["dependencies"]
    }
    versions = dict(locked())
    assert needed - set(versions) == {"psutil"}  # the distribution's
    tested = dict(
        line.lower().replace("_", "-").split("==")
        for line in (PACKAGING / "python" / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    assert {n: v for n, v in versions.items() if tested.get(n) != v} == {}


def locked() -> list[tuple[str, str]]:
    """Return (name, version) of every library that the package carries."""
    text = (PACKAGING / "python" / "runtime.lock").read_text(encoding="utf-8")
    return re.findall(r"^([a-z0-9.-]+)==(\S+)", text, re.MULTILINE)


def make_deb(checkout: Path, *, umask: int, environ: dict[str, str]) -> Path:
    """Type 'make deb' there and return the package; its output is in the failure."""
    result = subprocess.run(
        ["make", "deb", f"VENV={REPOSITORY / '.venv'}"],
        cwd=checkout, umask=umask, timeout=BUILD_LIMIT, text=True, check=False,
        env={**os.environ, "EDGEPAAS_WHEELHOUSE": str(WHEELHOUSE), **environ},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    return checkout / "dist" / PACKAGE
