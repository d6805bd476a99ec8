"""What the Dockerfiles and docker-compose.yml say, with no engine: faults, and what nobody may be exposed to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.containers.machine import ROOT
from tests.containers.rendered import PROFILES, rendered

DOCKERFILES = ("docker/Dockerfile", "docker/Dockerfile.cuda")
COMPOSE_FILES = ("docker-compose.yml", "docker/compose.keys.yml")
DCLINT = "dclint@3.1.0"


def instruction(file: str, name: str) -> str:
    """The last such instruction of a Dockerfile, continued lines included."""
    return re.findall(rf"^{name} (?:.*\\\n)*.*$", (ROOT / file).read_text(), re.MULTILINE)[-1]


@pytest.mark.parametrize("file", DOCKERFILES)
def test_dockerfile_has_no_faults(file: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", ROOT / file], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout


def test_compose_files_have_no_faults() -> None:
    if shutil.which("npx") is None:
        reason = "dclint needs npx: apt-get install npm"
        if os.environ.get("CI") and os.environ.get("NEXTWORD_TEST_CONTAINERS"):
            pytest.fail(reason)
        pytest.skip(reason)
    command = ["npx", "--yes", DCLINT, "--config", "docker/dclint.yml", "--max-warnings", "0", *COMPOSE_FILES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", DOCKERFILES)
def test_what_is_installed_is_pinned_by_hash(file: str) -> None:
    installs = re.findall(r"pip install ((?:[^\n&\\]|\\\n)*)", (ROOT / file).read_text())
    assert len(installs) == 3
    for install in installs[:2]:
        (name,) = re.findall(r"-r (\S+)", install)
        assert "--require-hashes" in install
        pinned = re.split(r"\n(?=\S)", (ROOT / name).read_text().strip())
        assert all("==" in item and "--hash=sha256:" in item for item in pinned), name
    assert "--no-deps" in installs[2]


def test_both_images_run_alike() -> None:
    for name in ("USER", "ENTRYPOINT", "CMD", "EXPOSE", "WORKDIR"):
        first, second = (instruction(file, name) for file in DOCKERFILES)
        assert first == second
    first, second = (instruction(file, "HEALTHCHECK").partition("--retries")[2] for file in DOCKERFILES)
    assert first == second != ""
    assert re.fullmatch(r"USER [1-9]\d+:[1-9]\d+", instruction(DOCKERFILES[0], "USER"))


def test_the_cuda_image_has_what_kernels_are_compiled_with() -> None:
    pinned = (ROOT / "requirements/cuda.txt").read_text()
    names = set(re.findall(r"^([\w.-]+)==", pinned, re.MULTILINE))
    assert {"cupy-cuda13x", "chainer", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-cublas"} <= names


def test_profiles_bring_the_services_that_they_are_named_after() -> None:
    assert set(rendered("")["services"]) == {"nextword"}
    assert set(rendered("gpu")["services"]) == {"nextword", "gpu"}
    assert set(rendered("replicas")["services"]) == {"nextword", "replica", "redis", "balancer"}
    assert set(rendered("observability")["services"]) == {"nextword", "prometheus", "grafana"}


def test_nothing_is_published_beyond_this_machine() -> None:
    services = rendered()["services"]
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"nextword", "gpu", "balancer", "prometheus", "grafana"}
    assert {port["host_ip"] for ports in published.values() for port in ports} == {"127.0.0.1"}
    assert not any("network_mode" in service for service in services.values())
    (port,) = published["nextword"]
    assert (port["published"], port["target"]) == ("8000", 8000)
    open_to_all = rendered(NEXTWORD_BIND="0.0.0.0")["services"]  # noqa: S104 - so the variable does what it says
    assert open_to_all["nextword"]["ports"][0]["host_ip"] == "0.0.0.0"  # noqa: S104


def test_every_service_is_bounded_and_comes_back() -> None:
    for name, service in rendered()["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) > 0, name
        assert float(service["cpus"]) > 0, name
        assert service["pids_limit"] > 0, name
        assert service["logging"]["options"]["max-size"], name


def test_services_wait_until_what_they_need_is_healthy() -> None:
    services = rendered()["services"]
    needs = {name: service["depends_on"] for name, service in services.items() if "depends_on" in service}
    assert {name: set(needed) for name, needed in needs.items()} == {
        "replica": {"redis"},
        "balancer": {"replica"},
        "grafana": {"prometheus"},
    }
    for name in needs:
        for needed, how in needs[name].items():
            assert how["condition"] == "service_healthy"
            # Those of our own images bring it along.
            assert "healthcheck" in services[needed] or services[needed]["image"].startswith("nextword:")


def test_the_gpu_is_reserved() -> None:
    (device,) = rendered()["services"]["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_secrets_are_files() -> None:
    services = rendered(files=COMPOSE_FILES)["services"]
    given = {name: {secret["source"] for secret in service.get("secrets", ())} for name, service in services.items()}
    assert given["replica"] == {"nextword_session_key", "nextword_store_password", "api_keys"}
    assert given["redis"] == {"nextword_store_password"}
    assert given["nextword"] == given["gpu"] == {"api_keys"}
    assert given["balancer"] == given["prometheus"] == given["grafana"] == set()
    for service in services.values():
        assert not any(re.search(r"PASSWORD|SESSION_KEY", name) for name in service.get("environment", ()))


def test_grafana_is_given_the_dashboard_and_where_to_ask() -> None:
    mounted = {
        Path(volume["target"]): Path(volume["source"]) for volume in rendered()["services"]["grafana"]["volumes"]
    }
    provisioning = Path("/etc/grafana/provisioning")
    (provider,) = yaml.safe_load(mounted[provisioning / "dashboards/nextword.yml"].read_text())["providers"]
    folder = Path(provider["options"]["path"])
    assert mounted[folder / "nextword.json"] == ROOT / "docker/dashboard.json"
    (source,) = yaml.safe_load(mounted[provisioning / "datasources/nextword.yml"].read_text())["datasources"]
    assert source["isDefault"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in rendered("observability")["services"]


@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_mounted_is_there(profile: str) -> None:
    for service in rendered(profile)["services"].values():
        for volume in service.get("volumes", ()):
            assert volume["type"] == "volume" or Path(volume["source"]).is_file()
