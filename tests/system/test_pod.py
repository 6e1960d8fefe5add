# SPDX-License-Identifier: Apache-2.0
"""The image as packaging/kubernetes restricts it, with volumes as a node would have them.

There is no cluster here: podman stands in for the kubelet, and each option it is given is
read from the manifest.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgepaas.web.access.tokens import TokenStore
from tests.system import images
from tests.system.checkout import REPOSITORY
from tests.system.hub import DATABASE, Hub
from tests.system.images import Container
from tests.system.network import Namespace

MANIFESTS = REPOSITORY / "packaging" / "kubernetes"
STATE = "/var/lib/edgepaas"


class Pod(Container):
    """The pod of a manifest, with *secrets* as files; its volumes are folders below *folder*."""

    def __init__(
        self, manifest: str, folder: Path, secrets: dict[str, str],
        namespace: Namespace | None = None, *options: str, **settings: str,
    ) -> None:  # fmt: skip
        documents = list(yaml.safe_load_all((MANIFESTS / manifest).read_text(encoding="utf-8")))
        (given,) = [d["data"] for d in documents if d["kind"] == "ConfigMap"]
        (workload,) = [d["spec"] for d in documents if d["kind"] in ("Deployment", "StatefulSet")]
        super().__init__(
            "pod", images.image(), *options, namespace=namespace,
            NODE_NAME="pod-0", **given, **settings,
        )  # fmt: skip
        self._folder = folder
        self._secrets = secrets
        self._spec: dict[str, Any] = workload["template"]["spec"]
        self._volumes: dict[str, dict[str, Any]] = {
            volume["name"]: volume
            for volume in (*self._spec["volumes"], *(
                {"name": claim["metadata"]["name"]}
                for claim in workload.get("volumeClaimTemplates", ())
            ))
        }  # fmt: skip

    def start(self) -> None:
        """Run it, detached, as a kubelet would."""
        (box,) = self._spec["containers"]
        identity, rights = self._spec["securityContext"], box["securityContext"]
        assert rights["readOnlyRootFilesystem"]
        assert not rights["allowPrivilegeEscalation"]
        given = {"ALERT_LOG_ONLY": "true", **self.settings}
        settings = [part for pair in given.items() for part in ("-e", "=".join(pair))]
        # The folder of the state first: a file of a Secret lies in it.
        mounts = sorted(box["volumeMounts"], key=lambda mount: str(mount["mountPath"]))
        images.podman(
            "run", "--detach", "--name", self.name, *images.LIMITS,
            "--user", f"{identity['runAsUser']}:{identity['runAsGroup']}",
            "--group-add", str(identity["fsGroup"]), "--read-only", "--read-only-tmpfs=false",
            *(f"--cap-drop={name}" for name in rights["capabilities"]["drop"]),
            "--security-opt", "no-new-privileges", "--network", f"ns:{self.namespace.path}",
            *(part for mount in mounts for part in self._mounted(mount, identity["fsGroup"])),
            *settings, *self.options, self.image,
        )  # fmt: skip

    def _mounted(self, mount: dict[str, Any], group: int) -> tuple[str, str]:
        volume, place = self._volumes[mount["name"]], mount["mountPath"]
        if volume.get("emptyDir", {}).get("medium") == "Memory":
            size = volume["emptyDir"]["sizeLimit"].removesuffix("i").lower()
            return "--tmpfs", f"{place}:rw,size={size},mode=2777,notmpcopyup"
        source = self._folder / mount["name"]
        source.mkdir(exist_ok=True)
        # What fsGroup makes of a volume: the group's, and so is what will be made in it.
        os.chown(source, 0, group)
        source.chmod(0o2777)
        if "secret" not in volume:
            return "--volume", f"{source}:{place}"
        file = source / mount["subPath"]
        file.write_text(self._secrets[mount["subPath"]])
        os.chown(file, 0, group)
        file.chmod(volume["secret"]["defaultMode"])
        return "--volume", f"{file}:{place}:ro"


@pytest.fixture
def server(containers: None, hub: Hub) -> Iterator[Hub]:
    """A PostgreSQL with an empty database."""
    hub.wire.heal()
    hub.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)", "postgres")
    hub.execute(f"CREATE DATABASE {DATABASE}", "postgres")
    yield hub
    hub.wire.heal()


def test_a_pod_at_the_edge_keeps_its_rows_on_its_volume(containers: None, tmp_path: Path) -> None:
    """Made anew on the same volume, as after a drain of its node."""
    with Pod("edge.yaml", tmp_path, {}) as pod:
        pod.ready(word="standalone")
        kept = pod.writer.write("press", 1.5)
        doctor_finds_nothing_wrong(pod)
        stop(pod)
        pod.remove()
        pod.start()
        pod.ready(word="standalone")
        assert pod.writer.stored("press") == [kept]


def test_a_pod_in_the_cloud_takes_the_tokens_of_its_secret_and_makes_none(
    server: Hub, tmp_path: Path
) -> None:
    """The file is mounted over a name in the state's folder: it is read, and never replaced."""
    tokens = TokenStore(tmp_path / "tokens.json")
    _, secret = tokens.create("tests", read_only=False)
    authority = tmp_path / "hub.pem"
    authority.write_bytes(server.authority)
    authority.chmod(0o644)
    with Pod(
        "cloud.yaml", tmp_path, {"tokens.json": (tmp_path / "tokens.json").read_text()},
        server.wire.edge, "--volume", f"{authority}:/etc/hub.pem:ro",
        DATABASE_URL=server.url, DB_SSLROOTCERT="/etc/hub.pem",
    ) as pod:  # fmt: skip
        pod.ready(word="primary")
        pod.token = secret
        kept = pod.writer.write("press", 1.5)
        assert server.execute("SELECT id::text FROM readings") == [[kept]]
        with pytest.raises(RuntimeError, match=r"tokens\.json.*is mounted.*edgepaas-tokens"):
            pod.exec("edgepaas", "token", "create", "another")
        assert [name.split()[1] for name in pod.exec("edgepaas", "token", "list").splitlines()] == [
            "NAME", "tests",
        ]  # fmt: skip
        doctor_finds_nothing_wrong(pod)
        stop(pod)


def doctor_finds_nothing_wrong(pod: Pod) -> None:
    """Nothing fails, and nobody is told to change a right that the cluster gives."""
    found = pod.exec("edgepaas", "doctor", check=False)
    assert "FAIL" not in found, found
    assert "permissions" not in found, found


def stop(pod: Pod) -> None:
    """Stop it as a kubelet does; it ends by itself, with 0."""
    began = time.monotonic()
    images.podman("stop", "--time", "35", pod.name)
    assert pod.wait() == 0, f"it had to be killed after {time.monotonic() - began:.1f} s"
