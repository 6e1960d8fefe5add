# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the booted boxes; a failed test prints what its boxes have to say."""

import contextlib
import os
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support import machine_readings
from tests.system import bed, images
from tests.system.appliance import Appliance
from tests.system.bed import Box, CannotBoot
from tests.system.hub import Hub
from tests.system.network import Wire
from tests.system.roots import CACHE, base_root, only_one
from tests.system.workers import shared_folder

REPOSITORY = Path(__file__).resolve().parents[2]
#: Held by the worker that sweeps: two would stumble over each other's removals.
SWEEPING = CACHE / "sweep.lock"
#: Seconds for one test with all that it has made for it: a root, a package, images. In a soak
#: there is no limit.
LIMIT = 0 if os.environ.get("EDGEPAAS_SOAK") else 1800
#: A package that is built already; without it one is built.
GIVEN_PACKAGE = os.environ.get("EDGEPAAS_TEST_DEB", "")
#: Set where a machine that cannot boot a box is to fail instead of skipping.
REQUIRED = os.environ.get("EDGEPAAS_TEST_REQUIRE_BOX", "") not in ("", "0", "false")


@pytest.fixture(scope="session")
def machine_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of eleven weeks: 22,695 readings, 12 of which share their time with another."""
    return machine_readings.write(tmp_path_factory.mktemp("readings") / "machine.csv")


@pytest.fixture(scope="session")
def bootable() -> None:
    """Skip, saying why, where no plain Debian boots; sweep what a killed run left behind."""
    reason = bed.why_not()
    if reason is None:
        with only_one(SWEEPING):
            bed.sweep()
        try:
            with Box("plain"):
                return
        except (CannotBoot, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            reason = f"this machine boots no Debian: {error}"
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def containers() -> None:
    """Skip, saying why, where no plain container runs; sweep what a killed run left behind."""
    reason = images.why_not()
    if reason is None:
        with only_one(SWEEPING):
            images.sweep()
        try:
            return images.try_out()
        except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            reason = f"this machine runs no container: {error}"
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def package(bootable: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package under test, built once for all workers."""
    if GIVEN_PACKAGE:
        return Path(GIVEN_PACKAGE).absolute()
    with only_one(images.BUILDING):
        note = shared_folder(tmp_path_factory) / "package"
        if not note.is_file():
            note.write_text(str(build_package()))
        return Path(note.read_text())


def build_package() -> Path:
    """Type 'make deb' and return what it made."""
    built = subprocess.run(
        ["make", "--no-print-directory", "deb"], cwd=REPOSITORY, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert built.returncode == 0, f"make deb:\n{built.stdout}\n{built.stderr}"
    return max((REPOSITORY / "dist").glob("edgepaas_*_all.deb"), key=lambda p: p.stat().st_mtime)


@pytest.fixture(scope="session")
def installed(package: Path) -> Iterator[Appliance]:
    """A Debian with the package installed offline, powered off: what other boxes begin as."""
    with Appliance("installed", package) as box:
        box.install()
        box.poweroff()
        yield box


@pytest.fixture
def appliance(installed: Appliance) -> Iterator[Appliance]:
    """A box of this test's own with the package on it, booted and ready."""
    with Appliance("box", installed.package, template=installed) as box:
        box.client.wait_ready()
        yield box


@pytest.fixture(scope="module")
def fresh(package: Path) -> Iterator[Appliance]:
    """A box that the package was installed on a moment ago; its tests leave it as they found it."""
    with Appliance("fresh", package) as box:
        box.install()
        yield box


@pytest.fixture(scope="module")
def hub(bootable: None) -> Iterator[Hub]:
    """A PostgreSQL on another host, at the far end of a wire."""
    with contextlib.ExitStack() as undo:
        wire = Wire("wire", base_root("bookworm"))
        undo.callback(wire.destroy)
        wire.create()
        server = Hub(wire)
        undo.callback(server.destroy)
        server.create()
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests here time: the first that wants a root or an image waits for its making."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(LIMIT))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add every living box's status and journal to the report of a failure."""
    report = yield
    if (
        report.failed
        and call.excinfo is not None
        and not call.excinfo.errisinstance(KeyboardInterrupt)
    ):
        for box in list(Box.living):
            report.sections.append((f"box {box.name}", box.report()))
    return report
