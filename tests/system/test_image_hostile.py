# SPDX-License-Identifier: Apache-2.0
"""The container image where it is run in another way than the manual says."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.system import images
from tests.system.images import Container

#: What the manual gives it, without the places to write.
CLOSED = (
    "--read-only", "--read-only-tmpfs=false", "--cap-drop", "all",
    "--security-opt", "no-new-privileges",
)  # fmt: skip
#: As Docker mounts one: empty, root's, with the mode that /run has in the image. Podman would
#: copy the image's folder into it, with its owner.
DOCKERS_RUN = ("--tmpfs", "/run:notmpcopyup")


class Given(Container):
    """A container with the options that a test gives it, and no other."""

    def start(self) -> None:
        """Run it, detached."""
        images.podman(
            "run", "--detach", "--name", self.name, *images.LIMITS, "--network",
            f"ns:{self.namespace.path}", *self.options, self.image,
        )  # fmt: skip


@pytest.fixture(scope="module")
def image(containers: None, package: Path) -> str:
    """The image under test. *package* is built first: the image takes the same downloads."""
    return images.image()


def refused(image: str, *options: str) -> tuple[int, str]:
    """Run a container that is to end by itself; returns its exit status and what it printed."""
    done = subprocess.run(
        [*images.PODMAN, "run", "--rm", *images.LIMITS, "--network", "none", *options, image],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_an_empty_run_that_belongs_to_root_is_enough(image: str) -> None:
    """What 'docker run --tmpfs /run' gives; the folder of the image is hidden by it."""
    with Given("docker", image, *CLOSED, *DOCKERS_RUN) as box:
        box.ready()
        owner, mode = box.exec("stat", "--format", "%u %a", "/run").split()
        assert (owner, mode) == ("0", "1777")
        box.writer.write("press", 1.0)


def test_it_runs_as_whatever_user_a_cluster_gives_it(image: str) -> None:
    """OpenShift's restricted-v2: a number that nobody knows, in the group root."""
    with Given("anybody", image, *CLOSED, *DOCKERS_RUN, "--user", "12345:0") as box:
        box.ready()
        assert box.client.request("POST", "/api/v1/readings", {}).status == 401, "production"
        box.writer.write("press", 1.0)
        images.podman("healthcheck", "run", box.name)
        assert box.exec("stat", "--format", "%u", "/var/lib/edgepaas/edgepaas.db").strip() == (
            "12345"
        )
        # Another one's files would lock the service out.
        other = box.exec("edgepaas", "token", "create", "theirs", user="54321:0", check=False)
        assert not other


def test_a_second_container_on_the_same_volume_is_refused_and_harms_nobody(image: str) -> None:
    """Each has a /run of its own, so what they share has to say it."""
    with Container("first", image) as box:
        box.ready()
        shared = ("--tmpfs", "/run", "--volume", f"{box.volume}:/var/lib/edgepaas")
        status, said = refused(image, *CLOSED, *shared)
        assert status == 1
        assert "/var/lib/edgepaas: another 'edgepaas up' works there" in said
        box.writer.write("press", 1.0)
        box.kill()
        box.restart()
        box.ready()  # a lock, not a file, so a killed one leaves the way free
        assert len(box.writer.stored("press")) == 1


def test_each_way_to_start_it_wrongly_is_refused_in_one_line_with_the_way_out(
    image: str, tmp_path: Path
) -> None:
    """No place to write, somebody else's volume, a root that may not become its user."""
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    for options, status, words in (
        (CLOSED, 78, ("/run/edgepaas cannot be written (Read-only", "'--tmpfs /run'", "10001")),
        (
            (*CLOSED, "--tmpfs", "/run", "--volume", f"{theirs}:/var/lib/edgepaas"),
            78, ("/var/lib/edgepaas", "Permission denied", "a volume on /var/lib/edgepaas"),
        ),
        ((*CLOSED, *DOCKERS_RUN, "--user", "0"), 1, ("no CAP_SETUID", "'--user 10001'")),
        ((*CLOSED, *DOCKERS_RUN, "--user", "999:999"), 1, ("user edgepaas", "'--user 10001'")),
    ):  # fmt: skip
        ended, said = refused(image, *options)
        assert ended == status, said
        assert len(said.strip().splitlines()) == 1, said
        assert all(word in said for word in words), said


class Initialised(Given):
    """A container whose first process is there, and waits to become the image's program."""

    def start(self) -> None:
        """Create it; :meth:`run` has it go on."""
        images.podman(
            "create", "--name", self.name, *images.LIMITS, "--network",
            f"ns:{self.namespace.path}", *self.options, self.image, "up",
        )  # fmt: skip
        images.podman("init", self.name)

    def run(self) -> "subprocess.Popen[bytes]":
        """Have it go on; it is watched meanwhile."""
        return subprocess.Popen([*images.PODMAN, "start", self.name], stdout=subprocess.DEVNULL)


def keeps(pid: int, number: int) -> bool:
    """Whether a process blocks or handles the signal *number* (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [int(status.split(f"{name}:\t")[1].split()[0], 16) for name in ("SigBlk", "SigCgt")]
    return any(mask >> (number - 1) & 1 for mask in masks)


def is_python(pid: int) -> bool:
    """Whether a process runs Python by now."""
    return Path(f"/proc/{pid}/exe").readlink().name.startswith("python")


def seconds_on_cpu(pid: int) -> float:
    """How long a process has run, however busy the machine is."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def stopped_as_python_begins(image: str, *options: str) -> bool:
    """Send SIGTERM as soon as PID 1 is Python; whether it was kept at that moment."""
    with Initialised("first", image, *CLOSED, *DOCKERS_RUN, *options) as box:
        pid = box.first_pid()
        before = seconds_on_cpu(pid)
        starting = box.run()
        deadline = time.monotonic() + 60
        while not is_python(pid):
            assert time.monotonic() < deadline
        kept = keeps(pid, signal.SIGTERM)
        used = seconds_on_cpu(pid) - before
        os.kill(pid, signal.SIGTERM)
        print(f"deaf for less than {1000 * used:.1f} ms of processor; kept: {kept}")
        assert starting.wait(60) == 0
        if kept:
            assert box.wait() == 0, box.logs()
        return kept


def test_a_stop_is_kept_from_before_python_begins(image: str) -> None:
    """No program can keep one that comes earlier.

    For PID 1 the kernel drops a signal that it has neither blocked nor handled: until the
    container's runtime has become 'env' and that has blocked it, which takes about a
    millisecond of processor. Then Python begins with the signal blocked, and unblocks it when
    the supervisor has a handler and a pipe for it.
    """
    for _ in range(5):
        assert stopped_as_python_begins(image)


def test_an_image_that_begins_with_python_is_found_out(image: str) -> None:
    """Its deaf time is a whole start of Python, which is not always seen on a busy machine."""
    assert any(
        not stopped_as_python_begins(image, "--entrypoint", "/usr/bin/edgepaas") for _ in range(20)
    )


def test_a_stop_at_any_moment_of_the_boot_ends_it_with_0(image: str) -> None:
    """From the first instant at which PID 1 can keep a signal, as the test above says."""
    for moment in ("", "environment ", "decision ", "schema ", "service "):
        with Given("boot", image, *CLOSED, *DOCKERS_RUN) as box:
            deadline = time.monotonic() + 60
            while not is_python(box.first_pid()):
                assert time.monotonic() < deadline
            while moment not in box.logs():
                assert time.monotonic() < deadline, f"no line {moment!r}: {box.logs()}"
            images.podman("kill", "--signal", "TERM", box.name)
            assert box.wait() == 0, f"at {moment!r}: {box.logs()}"


def test_a_service_that_is_aborted_leaves_no_core_in_the_volume(image: str) -> None:
    """Docker's own limit is none; the file would be as large as all the service's memory."""
    with Given("core", image, *CLOSED, *DOCKERS_RUN, "--ulimit", "core=-1:-1") as box:
        box.ready()
        for pid in box.pids():
            limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
            (line,) = [line for line in limits if line.startswith("Max core file size")]
            assert line.split()[4:6] == ["0", "0"]


def test_memory_is_measured_against_the_container_s_limit(image: str) -> None:
    """The machine has plenty; the container ends where its limit is."""
    with Given("small", image, *CLOSED, *DOCKERS_RUN, "--memory", "128m") as box:
        box.ready()
        memory = box.client.get("/health/system").body["memory"]["value"]
        assert 30 < memory < 100, f"of 128 MiB the service alone has half: {memory} %"
