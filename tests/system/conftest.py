# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the booted boxes; a failed test prints what its boxes have to say."""

import contextlib
import os
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.system import bed, images
from tests.system.appliance import Appliance
from tests.system.bed import Box, CannotBoot
from tests.system.hub import Hub
from tests.system.network import Wire
from tests.system.roots import base_root

REPOSITORY = Path(__file__).resolve().parents[2]
#: A package that is built already; without it one is built.
GIVEN_PACKAGE = os.environ.get("EDGEPAAS_TEST_DEB", "")
#: Set where a machine that cannot boot a box is to fail instead of skipping.
REQUIRED = os.environ.get("EDGEPAAS_TEST_REQUIRE_BOX", "") not in ("", "0", "false")


@pytest.fixture(scope="session")
def bootable() -> None:
    """Skip, saying why, where no plain Debian boots; sweep what a killed run left behind."""
    reason = bed.why_not()
    if reason is None:
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
        images.sweep()
        try:
            return images.try_out()
        except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            reason = f"this machine runs no container: {error}"
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def package(bootable: None) -> Path:
    """The Debian package under test."""
    if GIVEN_PACKAGE:
        return Path(GIVEN_PACKAGE).absolute()
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
