"""The Kubernetes manifests: valid by Kubernetes' own schemas, whole, and in accord with what the service is."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import redis
import yaml

from app.settings import ENV_PREFIX, Settings, load
from tests.app.live import live
from tests.app.redis_server import executable

FOLDER = Path(__file__).parents[2] / "docker" / "kubernetes"
OVERLAYS = ("base", "replicas", "gpu")
#: The oldest Kubernetes that these are for, and the newest that the schemas are of.
VERSIONS = ("1.27", kubernetes_validate.latest_version().rpartition(".")[0])

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def kustomization(overlay: str) -> dict[str, Any]:
    (document,) = documents(FOLDER / overlay / "kustomization.yaml")
    return document


def named(overlay: str) -> tuple[list[str], list[str]]:
    """The files of resources and of patches that a kustomization names; other overlays are left out."""
    table = kustomization(overlay)
    resources = [name for name in table["resources"] if not name.startswith("../")]
    return resources, [patch["path"] for patch in table.get("patches", ())]


def resources(overlay: str) -> Iterator[dict[str, Any]]:
    """What `overlay` and those that it stands on bring, unpatched."""
    for name in kustomization(overlay)["resources"]:
        if name.startswith("../"):
            yield from resources(name.removeprefix("../"))
        else:
            yield from documents(FOLDER / overlay / name)


@cache
def built(overlay: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What Kubernetes is given, by kind and name."""
    said = subprocess.run(["kubectl", "kustomize", FOLDER / overlay], capture_output=True, text=True, check=False)  # noqa: S607
    assert said.returncode == 0, said.stderr
    assert not said.stderr  # warnings of what is deprecated
    return {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(said.stdout)}


def service_pod(overlay: str) -> dict[str, Any]:
    return built(overlay)["Deployment", "nextword"]["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def environment(overlay: str) -> dict[str, str]:
    (container,) = service_pod(overlay)["containers"]
    return {variable["name"]: variable["value"] for variable in container["env"]}


# --- Without kubectl --------------------------------------------------------------------------------------------------


@each_overlay
def test_every_file_is_named_once_and_every_name_is_a_file(overlay: str) -> None:
    files, patches = named(overlay)
    there = {path.name for path in (FOLDER / overlay).iterdir()} - {"kustomization.yaml"}
    assert sorted(files + patches) == sorted(there)


@each_overlay
@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_is_valid_by_itself(overlay: str, version: str) -> None:
    found = list(resources(overlay))
    assert len(found) >= 3
    for resource in found:
        kubernetes_validate.validate(resource, version, strict=True)


def test_the_validator_finds_what_is_wrong() -> None:
    deployment = next(item for item in resources("base") if item["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError, match="enableServiceLink"):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)


@each_overlay
def test_every_patch_has_something_to_patch(overlay: str) -> None:
    there = {(item["apiVersion"], item["kind"], item["metadata"]["name"]): item for item in resources(overlay)}
    for name in named(overlay)[1]:
        (patch,) = documents(FOLDER / overlay / name)
        target = there[patch["apiVersion"], patch["kind"], patch["metadata"]["name"]]
        theirs, ours = (
            {container["name"] for container in item["spec"]["template"]["spec"]["containers"]}
            for item in (target, patch)
        )
        assert ours <= theirs  # one that is not there would be a second container


def test_the_adapter_makes_the_metric_of_what_the_service_exports() -> None:
    (adapter,) = documents(FOLDER / "prometheus-adapter.yaml")
    (rule,) = adapter["rules"]["custom"]
    (autoscaler,) = documents(FOLDER / "replicas" / "autoscaler.yaml")
    asked = [metric["pods"]["metric"]["name"] for metric in autoscaler["spec"]["metrics"] if metric["type"] == "Pods"]
    assert asked == [rule["name"]["as"]]
    series = re.findall(r"nextword_\w+", rule["metricsQuery"] + rule["seriesQuery"])
    assert len(set(series)) == 2
    with live() as server, urllib.request.urlopen(server.address + "/metrics") as answer:  # noqa: S310
        page = answer.read().decode()
    for name in series:
        assert re.search(rf"^{name} [0-9.]+$", page, re.MULTILINE), name


# --- As kubectl builds them -------------------------------------------------------------------------------------------


@needs_kubectl
@each_overlay
@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_built_is_valid(overlay: str, version: str) -> None:
    for item in built(overlay).values():
        kubernetes_validate.validate(item, version, strict=True)
        assert item["metadata"].get("namespace", "nextword") == "nextword"


@needs_kubectl
@each_overlay
def test_the_service_understands_what_it_is_given(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {name: value for name, value in environment(overlay).items() if name.startswith(ENV_PREFIX)}
    for name, value in variables.items():
        assert name.removeprefix(ENV_PREFIX).lower() in Settings.model_fields
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NEXTWORD_SESSION_KEY", "0123456789abcdef")  # of the secret
    settings = load()
    assert settings.store.startswith("redis://" if overlay != "base" else "memory")
    pod = service_pod(overlay)
    (container,) = pod["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": settings.port}]
    before_the_signal = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > before_the_signal + settings.drain_seconds
    assert settings.threads == int(container["resources"]["requests"]["cpu"])
    assert pod["enableServiceLinks"] is False  # else NEXTWORD_PORT is overwritten


@needs_kubectl
@each_overlay
def test_nothing_may_more_than_it_must(overlay: str) -> None:
    """By the rules of the Pod Security Standard "restricted", and beyond them a root that cannot be written."""
    workloads = [item for (kind, _), item in built(overlay).items() if kind in ("Deployment", "StatefulSet")]
    assert len(workloads) == (1 if overlay == "base" else 2)
    for workload in workloads:
        pod = workload["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
            assert "memory" in container["resources"]["limits"]
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    labels = built(overlay)["Namespace", "nextword"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@needs_kubectl
@each_overlay
def test_whoever_selects_finds_somebody(overlay: str) -> None:
    items = built(overlay)
    pods = {
        name: item["spec"]["template"]["metadata"]["labels"]
        for (kind, name), item in items.items()
        if kind in ("Deployment", "StatefulSet")
    }
    for (kind, name), item in items.items():
        spec = item.get("spec", {})
        selector = {
            "Service": lambda spec=spec: spec["selector"],
            "PodDisruptionBudget": lambda spec=spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec=spec: spec["podSelector"]["matchLabels"],
        }.get(kind)
        if selector is not None:
            found = [pod for pod, labels in pods.items() if selector().items() <= labels.items()]
            assert found == [name], (kind, name)
    if overlay != "base":
        target = items["HorizontalPodAutoscaler", "nextword"]["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in items
        assert "replicas" not in items["Deployment", "nextword"]["spec"]  # the autoscaler's to say
        host = re.fullmatch(r"redis://(\w+):(\d+)/0", environment(overlay)["NEXTWORD_STORE"])
        assert host is not None
        assert items["Service", host[1]]["spec"]["ports"][0]["port"] == int(host[2])


@needs_kubectl
def test_the_gpu_is_asked_for_and_the_kernels_have_where_to_be_kept() -> None:
    pod = service_pod("gpu")
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"] == "nextword:cuda"
    variables = environment("gpu")
    assert variables["CUPY_CACHE_IN_MEMORY"] == "0"  # the image has 1
    # The directory itself: CuPy wants it to be there.
    written = variables["CUPY_CACHE_DIR"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (place,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == written]
    assert "emptyDir" in volumes[place["name"]]
    assert service_pod("replicas")["containers"][0]["image"] == "nextword:cpu"


def test_the_service_finds_the_secrets_that_one_is_told_to_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the folder as Kubernetes lays it: links to what is behind a link that is changed as a whole."""
    told = re.findall(r"--from-literal=(\w+)=", (FOLDER.parents[1] / "DEPLOYING.md").read_text())
    assert {"nextword_session_key", "nextword_store_password"} < set(told)
    (tmp_path / "..2026_01_01").mkdir()
    (tmp_path / "..data").symlink_to("..2026_01_01")
    for name in told:
        (tmp_path / "..data" / name).write_text(f"first:the secret {name}")
        (tmp_path / name).symlink_to(Path("..data") / name)
    monkeypatch.setattr("app.settings.SECRETS_DIRECTORY", tmp_path)
    settings = load(store="redis://redis:6379/0")
    for name in told:
        value = getattr(settings, name.removeprefix("nextword_"))
        assert value.get_secret_value() == f"first:the secret {name}"


# --- What is run in it ------------------------------------------------------------------------------------------------


def test_redis_starts_as_it_is_told_with_the_password_of_the_file(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    redis_set = next(item for item in documents(FOLDER / "replicas" / "redis.yaml") if item["kind"] == "StatefulSet")
    (container,) = redis_set["spec"]["template"]["spec"]["containers"]
    *shell, script = container["command"]
    (tmp_path / "nextword_store_password").write_text("a password of words 123")
    script = script.replace("/run/secrets", str(tmp_path)).replace("dir /data", f"dir {tmp_path}\nport {port}")
    script = script.replace("exec redis-server", f"exec {executable()}")
    process = subprocess.Popen([*shell, script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while "Ready to accept connections" not in (line := process.stdout.readline()):
            assert line, "Redis ended"
        with redis.Redis(port=port) as anybody, pytest.raises(redis.AuthenticationError):
            anybody.ping()
        with redis.Redis(port=port, password="a password of words 123") as client:  # noqa: S106
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("maxmemory") == {"maxmemory": str(3 << 30)}
            assert client.info("persistence")["aof_enabled"] == 1
        process.send_signal(signal.SIGTERM)  # it is process 1 itself, not a shell that would not listen
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
