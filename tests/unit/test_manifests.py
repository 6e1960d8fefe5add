# SPDX-License-Identifier: Apache-2.0
"""The manifests for clusters and compose: valid, closed, and about settings that exist."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from edgepaas.files.paths import find_paths
from edgepaas.settings import SETTINGS
from edgepaas.settings.resolve import resolve
from edgepaas.web.access.tokens import read_tokens

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
KUBERNETES = PACKAGING / "kubernetes"
DOCKERFILE = (PACKAGING / "docker/Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((PACKAGING / "docker/compose.yaml").read_text(encoding="utf-8"))
#: The oldest API that lets a pod sleep before it stops, without a shell, and the newest known.
VERSIONS = ("1.30", kubernetes_validate.latest_version())
#: The number of the image's user, as the Dockerfile makes it.
USER = int(re.search(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE)[1])  # type: ignore[index]

Document = dict[str, Any]


def documents(name: str) -> list[Document]:
    return list(yaml.safe_load_all((KUBERNETES / name).read_text(encoding="utf-8")))


ALL = [
    pytest.param(document, id=f"{path.stem}-{document['kind']}-{document['metadata']['name']}")
    for path in sorted(KUBERNETES.glob("*.yaml"))
    for document in documents(path.name)
]


def workload(name: str) -> Document:
    (found,) = [d for d in documents(name) if d["kind"] in ("StatefulSet", "Deployment")]
    return found


def pod(name: str) -> Document:
    spec: Document = workload(name)["spec"]["template"]["spec"]
    return spec


def container(name: str) -> Document:
    (found,) = pod(name)["containers"]
    return dict(found)


both = pytest.mark.parametrize("name", ["edge.yaml", "cloud.yaml"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", ALL)
def test_each_document_is_what_the_api_takes(document: Document, version: str) -> None:
    checked_as = kubernetes_validate.validate(document, version, strict=True)
    assert version.startswith(checked_as), "an older version's schema stood in for this one"


def test_a_slip_of_the_pen_would_be_found() -> None:
    wrong = workload("edge.yaml")
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@both
def test_the_pods_pass_the_restricted_profile(name: str) -> None:
    """kubernetes.io/docs/concepts/security/pod-security-standards, each control of it."""
    spec, box = pod(name), container(name)
    for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
        assert not spec.get(forbidden)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == USER
    assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    rights = box["securityContext"]
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert rights["readOnlyRootFilesystem"] is True
    assert not rights.get("privileged")
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
    for volume in spec.get("volumes", []):
        assert set(volume) - {"name"} <= allowed
    for port in box["ports"]:
        assert "hostPort" not in port
    namespace = documents("namespace.yaml")[0]["metadata"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@both
def test_only_the_state_and_run_can_be_written(name: str) -> None:
    mounts = {
        m["mountPath"] for m in container(name)["volumeMounts"] if not m.get("readOnly", False)
    }
    assert mounts == {"/var/lib/edgepaas", "/run"}


@both
def test_run_is_so_large_that_the_box_sees_no_full_disk_there(name: str) -> None:
    (run,) = [v["emptyDir"] for v in pod(name)["volumes"] if v["name"] == "run"]
    assert run["medium"] == "Memory"
    size = int(run["sizeLimit"].removesuffix("Mi")) * 1024**2
    assert size > int(SETTINGS["DISK_MIN_FREE"].default) + 8 * 1024**2


def test_the_tokens_are_not_open_to_everybody_in_the_pod() -> None:
    (secret,) = [v["secret"] for v in pod("cloud.yaml")["volumes"] if "secret" in v]
    assert secret["defaultMode"] == 0o440


@both
def test_each_probe_asks_for_an_address_that_is_there_and_needs_no_shell(name: str) -> None:
    box = container(name)
    assert box["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert box["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert box["startupProbe"]["httpGet"]["path"] == "/health/live"
    assert {port["name"] for port in box["ports"]} == {"http"}
    patience = box["livenessProbe"]["periodSeconds"] * box["livenessProbe"]["failureThreshold"]
    longest_round = float(SETTINGS["DECISION_DEADLINE"].default) + 30  # its own watchdog
    assert patience > longest_round


@both
def test_the_grace_period_covers_the_drain(name: str) -> None:
    (settings,) = [d["data"] for d in documents(name) if d["kind"] == "ConfigMap"]
    pause = container(name)["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pod(name)["terminationGracePeriodSeconds"]
    assert grace > float(settings["STOP_TIMEOUT"]) + pause + 10  # what is killed after it


@both
def test_every_key_is_a_setting_and_its_value_is_understood(name: str, tmp_path: Path) -> None:
    (given,) = [d["data"] for d in documents(name) if d["kind"] == "ConfigMap"]
    secrets = next(
        d for d in documents("secret.example.yaml") if d["metadata"]["name"] == "edgepaas"
    )["stringData"]
    named = set(given) | set(secrets) | {env["name"] for env in container(name)["env"]}
    assert named <= set(SETTINGS)
    assert not [key for key in given if SETTINGS[key].secret]
    assert all(isinstance(value, str) for value in given.values())
    resolved = resolve({**given, **secrets}, tmp_path / "none", None, hostname="box")
    assert not resolved.findings


@both
def test_what_is_referred_to_is_there_and_selectors_select(name: str) -> None:
    made = {(d["kind"], d["metadata"]["name"]) for d in documents(name)}
    made |= {(d["kind"], d["metadata"]["name"]) for d in documents("secret.example.yaml")}
    for source in container(name)["envFrom"]:
        for kind, key in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            assert key not in source or (kind, source[key]["name"]) in made
    for volume in pod(name)["volumes"]:
        assert "secret" not in volume or ("Secret", volume["secret"]["secretName"]) in made
    labels = workload(name)["spec"]["template"]["metadata"]["labels"]
    for document in documents(name):
        selector = document.get("spec", {}).get("selector", {})
        assert selector.get("matchLabels", selector) in ({}, labels)
        assert document["metadata"]["namespace"] == "edgepaas"


def test_the_edge_is_one_box_with_a_volume_that_a_drain_may_end() -> None:
    edge = workload("edge.yaml")
    assert edge["kind"] == "StatefulSet"
    assert edge["spec"]["replicas"] == 1
    (claim,) = edge["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] in {m["name"] for m in container("edge.yaml")["volumeMounts"]}
    (budget,) = [d for d in documents("edge.yaml") if d["kind"] == "PodDisruptionBudget"]
    assert budget["spec"].get("maxUnavailable") == 1


def test_the_cloud_is_postgresql_or_nothing_and_keeps_nothing() -> None:
    cloud = workload("cloud.yaml")
    assert cloud["kind"] == "Deployment"
    (given,) = [d["data"] for d in documents("cloud.yaml") if d["kind"] == "ConfigMap"]
    assert given["BOTH_DB"] == "false"
    assert "volumeClaimTemplates" not in cloud["spec"]
    (budget,) = [d for d in documents("cloud.yaml") if d["kind"] == "PodDisruptionBudget"]
    assert budget["spec"]["minAvailable"] < cloud["spec"]["replicas"]


def test_the_example_of_the_tokens_is_a_file_of_tokens(tmp_path: Path) -> None:
    (tokens,) = [
        d for d in documents("secret.example.yaml") if d["metadata"]["name"] == "edgepaas-tokens"
    ]
    path = tmp_path / "tokens.json"
    path.write_text(tokens["stringData"][path.name])
    assert read_tokens(path) == ()


def test_an_image_keeps_its_spool_in_its_one_volume() -> None:
    environ = dict(re.findall(r"^(?:ENV|) +([A-Z_]+)=(/\S+)", DOCKERFILE, re.MULTILINE))
    environ |= dict(re.findall(r"^ENV ([A-Z_]+)=(\S+)", DOCKERFILE, re.MULTILINE))
    found = find_paths(environ)
    for folder in (found.state, found.spool, found.logs):
        assert folder.is_relative_to("/var/lib/edgepaas")
    assert found.runtime == Path("/run/edgepaas")


# -- compose --


BOXES = {name: s for name, s in COMPOSE["services"].items() if "IMAGE" in s["image"]}


def test_compose_has_the_profiles_that_the_readme_names() -> None:
    services = COMPOSE["services"]
    of = {name: set(service.get("profiles", [])) for name, service in services.items()}
    assert of["box"] == set()
    assert {name for name, profiles in of.items() if "postgres" in profiles} == {"app", "postgres"}
    assert {name for name, profiles in of.items() if "fleet" in profiles} == {
        "box1", "box2", "postgres",
    }  # fmt: skip
    assert {name for name, profiles in of.items() if "monitoring" in profiles} == {
        "prometheus", "alertmanager",
    }  # fmt: skip


@pytest.mark.parametrize("name", BOXES)
def test_each_box_of_compose_is_closed_and_keeps_its_state(name: str) -> None:
    box = BOXES[name]
    assert box["read_only"] is True
    assert box["tmpfs"] == ["/run"]
    assert box["cap_drop"] == ["ALL"]
    assert set(box["environment"]) <= set(SETTINGS)
    (volume,) = box["volumes"]
    source, _, target = volume.partition(":")
    assert target == "/var/lib/edgepaas"
    assert source in COMPOSE["volumes"]
    assert int(box["stop_grace_period"].rstrip("s")) > int(box["environment"]["STOP_TIMEOUT"])
    assert all(port.startswith("127.0.0.1:") for port in box["ports"])
    assert "depends_on" not in box, "a box starts without its PostgreSQL"


def test_files_that_compose_mounts_are_there() -> None:
    for service in COMPOSE["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (PACKAGING / "docker" / source).is_file()
            else:
                assert source in COMPOSE["volumes"]
