# SPDX-License-Identifier: Apache-2.0
"""packaging/docker/compose.yaml, run by podman-compose in a network namespace of its own.

No registry is asked: PostgreSQL, Prometheus and Alertmanager are stand-ins under the names
that compose.yaml has, built from Debian's packages to behave as those images do. Bridges,
ports and names live in the namespace, so nothing here meets the machine's own network.
"""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import Any, Self

import yaml

from tests.system import images
from tests.system.checkout import REPOSITORY
from tests.system.client import Client
from tests.system.network import Namespace, run

FILE = REPOSITORY / "packaging" / "docker" / "compose.yaml"
PROGRAM = "podman-compose"
NETAVARK = Path("/usr/lib/podman")
#: Where netavark's name server is told of networks, by each podman of the machine's root.
NAMES = Path("/run/containers/networks/aardvark-dns")
CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""
PODMAN = """\
#!/bin/sh
export CONTAINERS_CONF={folder}/containers.conf
exec nsenter --net={namespace} {podman} "$@"
"""

_COMMON = """\
FROM {base}
RUN apt-get update -qq && \\
    mkdir -p /etc/postgresql-common && \\
    echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf && \\
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \\
    postgresql prometheus prometheus-alertmanager >/dev/null && \\
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /etc/prometheus && \\
    mkdir -p /etc/prometheus /etc/alertmanager /prometheus /alertmanager && \\
    chown nobody:nogroup /prometheus /alertmanager && \\
    ln -s /usr/lib/postgresql/*/bin /opt/postgresql
COPY --chmod=755 entry.sh /
"""
_ENTRY = """\
#!/bin/sh
set -eu
if [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres -m 0700 "$PGDATA"
    install -d -o postgres -g postgres /run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    echo "$POSTGRES_PASSWORD" >/tmp/password
    initdb -D "$PGDATA" -U "$POSTGRES_USER" --pwfile=/tmp/password \\
        --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8
    rm /tmp/password
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D "$PGDATA" postgres
fi
exec "$@"
"""
#: What each of the images says of itself, as far as compose.yaml counts on it.
_STAND_INS = {
    "postgres": """\
ENV PATH=/opt/postgresql:/usr/bin:/bin:/usr/sbin PGDATA=/var/lib/postgresql/data
VOLUME ["/var/lib/postgresql/data"]
STOPSIGNAL SIGINT
ENTRYPOINT ["/entry.sh"]
CMD ["postgres", "-c", "listen_addresses=*"]
""",
    "prometheus": """\
USER nobody
WORKDIR /prometheus
VOLUME ["/prometheus"]
ENTRYPOINT ["/usr/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
""",
    "alertmanager": """\
USER nobody
WORKDIR /alertmanager
VOLUME ["/alertmanager"]
ENTRYPOINT ["/usr/bin/prometheus-alertmanager"]
CMD ["--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager"]
""",
}
START_LIMIT = 180.0


@functools.cache
def services() -> dict[str, dict[str, Any]]:
    """Return compose.yaml's services."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]
    return found


def why_not() -> str | None:
    """Say what this machine lacks to run compose.yaml; None when nothing is missing."""
    for program in (PROGRAM, "nsenter", "iptables"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    for name in ("netavark", "aardvark-dns"):
        if not (NETAVARK / name).exists():
            return f"{name} is not installed"
    strangers = _networks_with_names()
    if strangers:
        return f"the names of podman networks {strangers} are served on this machine already"
    return None


def sweep() -> None:
    """End the name server of a test run that does not live any more, and its namespace."""
    Namespace.sweep()
    for path in NAMES.glob("*-compose_default"):
        owner = path.name.partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            path.unlink(missing_ok=True)
    if _networks_with_names():
        return
    with contextlib.suppress(OSError, ValueError):
        server = int((NAMES / "aardvark.pid").read_text())
        if Path(f"/proc/{server}/comm").read_text().strip() == "aardvark-dns":
            os.kill(server, signal.SIGTERM)


def stand_ins() -> None:
    """Build what a registry would give, and name it as compose.yaml does."""
    common = _COMMON.format(base=images.base_image())
    for name, own in _STAND_INS.items():
        recipe = common + own
        built = f"localhost/edgepaas-{name}:v{zlib.crc32((recipe + _ENTRY).encode()):08x}"
        if not images.podman("images", "-q", built).strip():
            with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
                Path(folder, "entry.sh").write_text(_ENTRY)
                Path(folder, "Dockerfile").write_text(recipe)
                run(
                    "env", "BUILDAH_ISOLATION=chroot", "BUILDAH_FORMAT=docker", *images.PODMAN,
                    "build", "--quiet", "--network=host", "--layers", "-t", built, folder,
                    timeout=images.BUILD_LIMIT,
                )  # fmt: skip
        images.podman("tag", built, services()[name]["image"])


class Compose:
    """A project of compose.yaml, with networks and volumes of its own; a context manager."""

    def __init__(self, image: str, folder: Path) -> None:
        self.project = f"{os.getpid()}-compose"
        self.namespace = Namespace(self.project)
        self._image = image
        self._folder = folder
        self._podman = folder / "podman"
        # Debian 12's knows no profiles; there, each service is named.
        self._profiles = "--profile" in run(PROGRAM, "--help").stdout

    def __enter__(self) -> Self:
        self.namespace.create()
        (self._folder / "networks").mkdir()
        (self._folder / "containers.conf").write_text(CONFIGURATION.format(folder=self._folder))
        self._podman.write_text(
            PODMAN.format(
                folder=self._folder, namespace=self.namespace.path, podman=" ".join(images.PODMAN)
            )
        )
        self._podman.chmod(0o755)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            for name in self.running():
                done = run(str(self._podman), "logs", "--tail", "40", name, check=False)
                print(f"{name} printed:\n{done.stdout}{done.stderr}")
        for name in self._listed("ps", "--all", "--filter", f"name={self.project}"):
            self.podman("rm", "--force", "--time", "0", "--volumes", name)
        self._run_if_there("pod", f"pod_{self.project}")
        self._run_if_there("network", f"{self.project}_default")
        for name in self._listed("volume", "ls", "--filter", f"name={self.project}"):
            self.podman("volume", "rm", "--force", name)
        self.namespace.destroy()

    def podman(self, *arguments: str) -> str:
        """Run podman in the namespace; returns what it printed on standard output."""
        return run(str(self._podman), *arguments, timeout=120).stdout

    def compose(self, *arguments: str, profiles: tuple[str, ...] = ()) -> str:
        """Run compose's command; returns what it printed on standard output."""
        chosen = [part for name in profiles if self._profiles for part in ("--profile", name)]
        environ = {**os.environ, "IMAGE": self._image}
        done = subprocess.run(
            [PROGRAM, "--podman-path", str(self._podman), "-p", self.project, "-f", str(FILE),
             *chosen, *arguments],
            env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=START_LIMIT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, *profiles: str) -> None:
        """What 'docker compose --profile … up --detach' starts."""
        names = [] if self._profiles else sorted(members(*profiles))
        self.compose("up", "-d", *names, profiles=profiles)

    def down(self, *profiles: str) -> None:
        """Remove the containers and their network; the volumes stay."""
        self.compose("down", profiles=profiles)

    def exec(self, service: str, *command: str) -> str:
        """Run *command* in a service, without a terminal; returns what it printed."""
        profiles = tuple(services()[service].get("profiles", []))
        printed = self.compose("exec", "-T", service, *command, profiles=profiles)
        if not self._profiles:  # Debian 12's tells on standard output what it does
            _, _, printed = printed.partition(f"{self._podman} exec ")
            printed = printed.partition("\n")[2].rpartition("exit code: ")[0]
        return printed.strip()

    def running(self) -> set[str]:
        """Return the containers that run."""
        return set(self._listed("ps", "--filter", f"name={self.project}"))

    def client(self, service: str) -> Client:
        """Return a client on the port that the service has on the machine's loopback."""
        (port,) = services()[service]["ports"]
        machine = str(port).removeprefix("127.0.0.1:").rpartition(":")[0]
        # '${PORT:-8080}' or a plain number.
        number = int(machine.strip("${}").rpartition(":-")[2])
        return Client(self.namespace, port=number)

    def health(self, service: str) -> str:
        """Run the service's health check now; returns what podman thinks of it then."""
        name = f"{self.project}_{service}_1"
        run(str(self._podman), "healthcheck", "run", name, check=False)
        (found,) = json.loads(self.podman("inspect", name))
        return str(found["State"]["Health"]["Status"])

    def _listed(self, *what: str) -> list[str]:
        key = "{{.Name}}" if what[0] == "volume" else "{{.Names}}"
        return self.podman(*what, "--format", key).split()

    def _run_if_there(self, kind: str, name: str) -> None:
        if run(str(self._podman), kind, "exists", name, check=False).returncode == 0:
            self.podman(kind, "rm", "--force", name)


def members(*profiles: str) -> set[str]:
    """Return the services that run with *profiles*: theirs, and those of none."""
    return {
        name
        for name, service in services().items()
        if not service.get("profiles") or set(service["profiles"]) & set(profiles)
    }


def _networks_with_names() -> list[str]:
    return sorted(path.name for path in NAMES.glob("*") if path.name != "aardvark.pid")
