# SPDX-License-Identifier: Apache-2.0
"""The same package on another CPU: Debian 12 for arm64, emulated.

That proves the package, not the sandbox. Each process of the box is one of qemu-user, which
has threads of its own and knows no seccomp: some of the system's early units fail under it
(systemd says 'degraded'), and an orderly power-off gets stuck.
"""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from tests.system.appliance import PACKAGE, Appliance
from tests.system.bed import CannotBoot
from tests.system.conftest import REQUIRED
from tests.system.emulation import CannotEmulate, arm64_programs
from tests.system.roots import base_root

#: Everything takes some ten times as long as on a CPU of its own.
LIMIT = 240.0
STAGES = ("edgepaas-env", "edgepaas-dbdecide", "edgepaas-schema")


class ArmAppliance(Appliance):
    """An appliance whose programs are arm64's."""

    arch: ClassVar[str] = "arm64"

    def install(self, package: Path | None = None, *options: str) -> float:
        self.watch_the_log()
        self.copy_in(package or self.package, PACKAGE)
        began = time.monotonic()
        self.exec("apt-get", "install", "-y", *options, PACKAGE, timeout=LIMIT)
        self.client.wait_ready(LIMIT)
        return time.monotonic() - began


@pytest.fixture(scope="module")
def box(package: Path) -> Iterator[ArmAppliance]:
    """A Debian for arm64 with the package installed offline."""
    try:
        with arm64_programs():
            try:
                base_root("bookworm", ArmAppliance.arch)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                raise CannotEmulate(f"no root for arm64 can be had: {str(error)[-300:]}") from error
            with ArmAppliance("arm64", package) as installed:
                print(f"installed and ready after {installed.install():.1f} s")
                yield installed
    except (CannotEmulate, CannotBoot) as error:
        if REQUIRED:
            pytest.fail(str(error))
        pytest.skip(str(error))


def test_the_package_serves_on_arm64(box: ArmAppliance) -> None:
    assert box.sh("uname -m; dpkg --print-architecture").split() == ["aarch64", "arm64"]
    answer = box.client.get("/health/ready")
    assert (answer.status, answer.body["state"]) == (200, "standalone")
    assert box.show("edgepaas.service", "StatusText").startswith("standalone since ")
    for stage in STAGES:
        assert box.show(f"{stage}.service", "Result") == "success"
    assert "edgepaas" not in box.sh("systemctl --failed --plain --no-legend --no-pager")


def test_the_status_command_is_content_on_arm64(box: ArmAppliance) -> None:
    spoken = box.exec("edgepaas", "status", check=False)
    assert spoken.returncode == 0, spoken.stdout + spoken.stderr
    assert spoken.stdout.split()[:2] == ["state", "standalone"]
    assert box.status()["state"] == "standalone", "an ordinary user is told the same"


def test_every_library_that_the_package_carries_is_compiled_on_arm64(box: ArmAppliance) -> None:
    """The byte-code is made at the installation, by the box's own Python."""
    count = "find /usr/share/edgepaas/lib -name '*.py%s' | wc -l"
    sources, compiled = int(box.sh(count % "")), int(box.sh(count % "c"))
    assert compiled >= 0.9 * sources > 100


def test_a_reading_is_read_back_and_survives_a_kill_of_the_whole_box(box: ArmAppliance) -> None:
    kept = box.writer.write("press", 21.5)
    assert box.writer.stored("press") == [kept]
    box.kill()
    began = time.monotonic()
    box.boot()
    box.client.wait_ready(LIMIT, word="standalone")
    print(f"boot to ready {time.monotonic() - began:.1f} s")
    assert box.writer.stored("press") == [kept]
