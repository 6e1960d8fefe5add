# SPDX-License-Identifier: Apache-2.0
"""The container image: built from this checkout with podman, and containers that run it.

Base and layers are kept below $EDGEPAAS_TEST_CACHE, in a storage of their own. A container
has a network namespace of its own, so that a client talks to it as to a booted box. Needs
root. Nothing here needs a registry: the base is made by mmdebstrap.
"""

import functools
import json
import os
import shutil
import subprocess
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any, ClassVar, Self

from tests.system.checkout import REPOSITORY, copy_checkout
from tests.system.client import Client
from tests.system.network import Namespace, run
from tests.system.roots import CACHE, only_one
from tests.system.workers import run_owner

#: Held by who builds: one build at a time, of what another worker has not built meanwhile.
BUILDING = CACHE / "build.lock"
#: An image that is built already, in the storage below; without it one is built.
GIVEN_IMAGE = os.environ.get("EDGEPAAS_TEST_IMAGE", "")
BASE = "docker.io/library/debian:bookworm-slim"
STORAGE = CACHE / "containers"
PODMAN = (
    "podman", "--root", str(STORAGE), "--runroot", "/run/edgepaas-test-containers",
    "--runtime", "runc", "--log-level", "fatal",
)  # fmt: skip
#: Without them neither runtime starts a container below another one's limits.
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")
#: What a registry's slim image leaves out as well.
SLIM = (
    "path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/info/*",
)  # fmt: skip
#: Several builds; when there are more, all that has no name goes.
MOST_LAYERS = 100
BUILD_LIMIT = 1200.0  # s; on a slow network, with nothing cached


def why_not() -> str | None:
    """Say what this machine lacks to build and run an image; None when nothing is missing."""
    if os.geteuid() != 0:
        return "podman's containers need root here"
    for program in ("podman", "buildah", "runc", "mmdebstrap", "ip"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None


def try_out() -> None:
    """Run a container of the plain base; raises when this machine cannot."""
    podman("run", "--rm", *LIMITS, "--network", "none", base_image(), "/bin/true")


def podman(*arguments: str, check: bool = True, timeout: float = 120.0, **more: Any) -> str:
    """Run podman on the tests' storage; returns what it printed on standard output."""
    return run(*PODMAN, *arguments, check=check, timeout=timeout, **more).stdout


def base_image() -> str:
    """Return the name of the slim Debian that images are built on, made when it is missing."""
    include = "ca-certificates"
    tarball = CACHE / f"slim-bookworm-{zlib.crc32(' '.join((include, *SLIM)).encode()):08x}.tar"
    with only_one(CACHE / "slim.lock"):
        if not tarball.is_file():
            partial = tarball.with_suffix(f".{os.getpid()}.tar")
            options = [f"--dpkgopt={option}" for option in SLIM]
            run(
                "mmdebstrap", "--quiet", "--variant=minbase", f"--include={include}", *options,
                "bookworm", str(partial), timeout=900,
            )  # fmt: skip
            partial.rename(tarball)
        # Named after what it was made of, so that another recipe is another image.
        name = f"localhost/edgepaas-base:v{tarball.stem[-8:]}"
        if not podman("images", "-q", name).strip():
            podman("import", "--quiet", str(tarball), name, timeout=300)
    return name


def image(target: str = "application") -> str:
    """Return the name of the image under test, built with 'make image' from the tree as it is.

    Built once for all workers; when that fails, every test that wants it fails at once.
    """
    if GIVEN_IMAGE and target == "application":
        return GIVEN_IMAGE
    name, problem = _built(target)
    assert not problem, problem
    return name


@functools.cache
def _built(target: str) -> tuple[str, str]:
    name = f"localhost/edgepaas-test-{target}:{run_owner()}"
    base = base_image()
    with only_one(BUILDING):
        if podman("images", "-q", name).strip():
            return name, ""
        return name, _build(name, target, base)


def _build(name: str, target: str, base: str) -> str:
    """Build the image *name*; returns what was printed when that failed."""
    with tempfile.TemporaryDirectory(prefix="edgepaas-image-", dir="/var/tmp") as folder:
        tree = copy_checkout(Path(folder) / "edgepaas")
        # Not the history, but which commit it is.
        head = run("git", "-C", str(REPOSITORY), "rev-parse", "HEAD", check=False).stdout
        (tree / ".git").mkdir()
        (tree / ".git" / "HEAD").write_text(head)
        house = Path(os.environ.get("EDGEPAAS_WHEELHOUSE") or REPOSITORY / "build" / "wheelhouse")
        if house.is_dir():
            shutil.copytree(house, tree / "build" / "wheelhouse")
        flags = f"--network=host --build-arg BASE={base}"
        built = subprocess.run(
            ["make", "--no-print-directory", "image", f"IMAGE={name}", f"IMAGE_TARGET={target}",
             f"IMAGE_TOOL={' '.join(PODMAN)}", f"IMAGE_FLAGS={flags}"],
            cwd=tree, env={**os.environ, "BUILDAH_ISOLATION": "chroot"}, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=BUILD_LIMIT, check=False,
        )  # fmt: skip
    printed = f"make image:\n{built.stdout[-6000:]}\n{built.stderr[-6000:]}"
    return "" if built.returncode == 0 else printed


def later_image(name: str, package: Path) -> str:
    """Return the name of an image like *name* with another build of the package in it."""
    later = f"{name}-later"
    with only_one(BUILDING), tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        shutil.copyfile(package, Path(folder, "later.deb"))
        Path(folder, "Dockerfile").write_text(
            f"FROM {name}\nUSER 0\nCOPY later.deb /\nRUN dpkg --install /later.deb\n"
            "USER 10001:10001\n"
        )
        run(
            "env", "BUILDAH_ISOLATION=chroot", "BUILDAH_FORMAT=docker", *PODMAN, "build",
            "--quiet", "--network=host", "-t", later, folder, timeout=300,
        )  # fmt: skip
    return later


def inspect(name: str) -> dict[str, Any]:
    """Return what podman knows of an image."""
    found: list[dict[str, Any]] = json.loads(podman("image", "inspect", name))
    return found[0]


def sweep() -> None:
    """Remove the containers, images and volumes of test runs that do not live any more."""
    for what, format_, remove in (
        ("ps --all", "{{.Names}}", "rm --force --time 0 --volumes"),
        ("images", "{{.Repository}}:{{.Tag}}", "rmi --force"),
        ("volume ls", "{{.Name}}", "volume rm --force"),
    ):
        for line in podman(*what.split(), "--format", format_).split():
            if what == "images" and not line.startswith("localhost/edgepaas-test-"):
                continue  # a version is no process
            owner = line.rpartition(":")[2] if ":" in line else line.split("-")[0]
            owner = owner.removesuffix("-later")
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                podman(*remove.split(), line, check=False)
    # Layers that a later build may take again, until they are too many.
    with only_one(BUILDING):
        if len(podman("images", "--all", "--quiet").split()) > MOST_LAYERS:
            podman("image", "prune", "--force", check=False, timeout=600)


class Container:
    """A container of the image, with a volume for its state; a context manager.

    The root file system is read-only; the volume and /run are all that can be written.
    """

    living: ClassVar[list["Container"]] = []

    def __init__(
        self, name: str, image: str, *options: str, namespace: Namespace | None = None,
        **settings: str,
    ) -> None:  # fmt: skip
        self.name = f"{os.getpid()}-{name}"
        self.volume = f"{self.name}-state"
        self.image = image
        self.options = options
        self.settings = {"RATE_LIMIT": "0", **settings}
        self.token = ""
        self._own_namespace = namespace is None
        self.namespace = namespace or Namespace(self.name)

    def __enter__(self) -> Self:
        self.living.append(self)
        if self._own_namespace:
            self.namespace.create()
        try:
            self.start()
        except BaseException:
            self.__exit__(None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            print(f"{self.name} printed:\n{self.logs()[-6000:]}")
        self.remove()
        podman("volume", "rm", "--force", self.volume, check=False)
        if self._own_namespace:
            self.namespace.destroy()
        self.living.remove(self)

    def start(self) -> None:
        """Run it, detached."""
        given = {"ALERT_LOG_ONLY": "true", **self.settings}
        settings = [part for pair in given.items() for part in ("-e", "=".join(pair))]
        podman(
            "run", "--detach", "--name", self.name, *LIMITS, "--read-only",
            "--read-only-tmpfs=false", "--tmpfs", "/run", "--cap-drop", "all",
            "--security-opt", "no-new-privileges", "--network", f"ns:{self.namespace.path}",
            "--volume", f"{self.volume}:/var/lib/edgepaas", *settings, *self.options, self.image,
        )  # fmt: skip

    def remove(self) -> None:
        """Remove the container at once; its volume stays."""
        # The nameless volumes of the image go with it.
        podman("rm", "--force", "--time", "0", "--volumes", self.name, check=False)

    def kill(self) -> None:
        """SIGKILL for its PID 1, and with it for everything in it."""
        podman("kill", "--signal", "KILL", self.name)
        self.wait()

    def wait(self, limit: float = 60.0) -> int:
        """Wait for its end; returns the exit status."""
        return int(podman("wait", self.name, timeout=limit))

    def restart(self) -> None:
        """Start the container that has ended again."""
        podman("start", self.name)

    def exec(self, *command: str, check: bool = True, user: str = "") -> str:
        """Run *command* in it; returns what it printed."""
        who = ("--user", user) if user else ()
        return podman("exec", *who, self.name, *command, check=check)

    def logs(self) -> str:
        """Return what it printed, both streams."""
        done = run(*PODMAN, "logs", self.name, check=False)
        return done.stdout + done.stderr

    def first_pid(self) -> int:
        """Its PID 1, as this machine numbers it."""
        (found,) = json.loads(podman("inspect", self.name))
        return int(found["State"]["Pid"])

    def pids(self) -> list[int]:
        """The processes in it, as this machine numbers them."""
        inside = Path(f"/proc/{self.first_pid()}/ns/pid").readlink()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "ns/pid").readlink() == inside:
                    found.append(int(folder.name))
            except OSError:
                continue
        return sorted(found)

    @property
    def client(self) -> Client:
        """A client on the container's own loopback, without a token."""
        return Client(self.namespace)

    @property
    def writer(self) -> Client:
        """A client that may write; its token is made on first use."""
        if not self.token:
            self.token = self.exec("edgepaas", "token", "create", "tests").strip()
        client = self.client
        client.token = self.token
        return client

    def ready(self, limit: float = 60.0, *, word: str = "") -> float:
        """Wait until it is ready (in the state *word*); returns the seconds that took."""
        began = time.monotonic()
        self.client.wait_ready(limit, word=word)
        return time.monotonic() - began
