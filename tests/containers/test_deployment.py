"""docker-compose.yml, brought up: replicas behind HAProxy with their sessions in Redis, and what watches them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.app.fake_runtime import PLAIN
from tests.app.population import Population
from tests.containers.engine import Engine, until
from tests.containers.machine import ROOT
from tests.containers.reference import Sequence, vocabulary

pytestmark = pytest.mark.anyio

SESSIONS = 200


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Deployment:
    """What `docker-compose` brings up from a copy of the checkout's files, with secrets and ports of its own."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        shutil.copytree(ROOT / "docker", folder / "docker", ignore=shutil.ignore_patterns("secrets"))
        for name in ("docker-compose.yml", "Makefile"):
            shutil.copy(ROOT / name, folder)
        subprocess.run(["make", "-C", folder, "secrets"], check=True, capture_output=True, timeout=60)  # noqa: S607
        names = ("NEXTWORD_PORT", "NEXTWORD_BALANCER_PORT", "NEXTWORD_PROMETHEUS_PORT")
        self.ports = {name: _free_port() for name in names}

    def compose(self, *arguments: str, timeout: float = 120) -> str:
        variables = {name: str(port) for name, port in self.ports.items()}
        profiles = ("--profile", "replicas", "--profile", "observability")
        return self._engine.compose(self._folder, *profiles, *arguments, timeout=timeout, **variables)

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--quiet", service).split()

    def state(self, container: str) -> Any:
        return self._engine.inspect(container)["State"]

    def healthy(self, container: str) -> bool:
        return bool(self.state(container).get("Health", {}).get("Status") == "healthy")

    def kill(self, container: str) -> None:
        """As a crash would: the engine is not told that it was meant to end."""
        os.kill(self.state(container)["Pid"], signal.SIGKILL)

    def restarts(self, container: str) -> int:
        return int(self._engine.inspect(container)["RestartCount"])

    def metrics(self, container: str) -> str:
        """What a replica counts, from its own address."""
        networks = self._engine.inspect(container)["NetworkSettings"]["Networks"]
        (network,) = networks.values()
        return httpx2.get(f"http://{network['IPAddress']}:8000/metrics", timeout=10).text


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def deployment(engine: Engine, stand_ins: None, folder: Path) -> Iterator[Deployment]:
    place = folder / "deployment"
    place.mkdir()
    it = Deployment(engine, place)
    try:
        it.compose("up", "--detach", "--no-build", "balancer", "prometheus", timeout=200)
        (balancer,) = it.containers("balancer")
        until(lambda: it.healthy(balancer), 60, "the balancer is healthy")
        yield it
    finally:
        it.compose("down", "--volumes", "--timeout", "20", timeout=120)


def predicted(page: str) -> int:
    """How many predict requests a replica has answered."""
    counts = re.findall(r'^nextword_http_requests_total\{.*route="/v1/predict".*\} (\S+)$', page, re.MULTILINE)
    return sum(int(float(count)) for count in counts)


async def eventually(true: Callable[[], object], seconds: float, what: str) -> None:
    """`until`, beside the clients."""
    await asyncio.to_thread(until, true, seconds, what)


def test_services_started_in_order_and_without_rights(deployment: Deployment) -> None:
    started = {name: deployment.containers(name) for name in ("redis", "replica", "balancer")}
    assert [len(containers) for containers in started.values()] == [1, 2, 1]
    first = {name: min(deployment.state(it)["StartedAt"] for it in its) for name, its in started.items()}
    assert first["redis"] < first["replica"] < first["balancer"]
    for containers in started.values():
        for container in containers:
            status = Path(f"/proc/{deployment.state(container)['Pid']}/status").read_text()
            assert "CapEff:\t0000000000000000" in status
            assert "\nUid:\t0" not in status


def test_the_secrets_are_nowhere_to_be_seen(deployment: Deployment, engine: Engine) -> None:
    secrets = [path.read_text().strip() for path in (deployment._folder / "docker/secrets").iterdir()]
    assert len(secrets) == 3
    for service in ("redis", "replica"):
        for container in deployment.containers(service):
            shown = json.dumps(engine.inspect(container)) + engine.docker("top", container)
            assert not any(secret in shown for secret in secrets)


def test_a_session_stays_with_one_replica(deployment: Deployment) -> None:
    replicas = deployment.containers("replica")
    address = deployment.address("NEXTWORD_BALANCER_PORT")
    homes = set()
    with httpx2.Client(base_url=address, timeout=20) as client:
        for _ in range(12):
            opened = client.post("/v1/predict", json={"text": "the"})
            session = opened.headers["x-session-id"]
            before = [predicted(deployment.metrics(replica)) for replica in replicas]
            for position in range(1, 11):
                body = {"session_id": session, "words": ["cat"], "position": position}
                assert client.post("/v1/predict", json=body, headers={"x-session-id": session}).status_code == 200
            after = [predicted(deployment.metrics(replica)) for replica in replicas]
            took = [late - early for early, late in zip(before, after, strict=True)]
            assert sorted(took) == [0, 10]
            homes.add(took.index(10))
    assert homes == {0, 1}


async def test_no_word_is_lost_or_counted_twice(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    replicas = deployment.containers("replica")
    (redis,) = deployment.containers("redis")
    address = deployment.address("NEXTWORD_BALANCER_PORT")
    known = vocabulary()
    plain = [word for word in PLAIN if word in known]
    assert len(plain) > 20
    figures = []
    async with Population([address], SESSIONS, seed=5, plain=plain, vocabulary=known, oracle=Sequence) as population:
        before, began = 0, time.monotonic()

        def note(what: str) -> None:
            nonlocal before, began
            seconds = time.monotonic() - began
            figures.append(f"{what}: {population.lost - before} requests not answered, {seconds:.1f} s")
            before, began = population.lost, time.monotonic()

        await population.answers(4 * SESSIONS)
        assert population.lost == 0
        note("all there")

        deployment.kill(replicas[0])
        await population.answers(4 * SESSIONS)
        note("a replica killed")
        await eventually(lambda: deployment.restarts(replicas[0]), 60, "the replica is restarted")
        await eventually(lambda: deployment.healthy(replicas[0]), 60, "the replica is healthy again")
        await population.answers(SESSIONS)
        note("the replica back")

        deployment.kill(redis)
        await eventually(lambda: deployment.restarts(redis), 60, "Redis is restarted")
        await population.answers(4 * SESSIONS)
        note("Redis killed, and back")
        assert population.lost > 0

        await asyncio.to_thread(deployment.compose, "restart", "redis")
        await population.answers(4 * SESSIONS)
        note("Redis restarted")

        assert all(predicted(deployment.metrics(replica)) for replica in replicas)
        await asyncio.to_thread(deployment.compose, "restart", "--timeout", "40", "replica")
        await population.answers(SESSIONS)
        note("both replicas restarted")

        await population.finish()
    with capsys.disabled():
        print(f"\n{SESSIONS} sessions through the balancer, {population.words} words acknowledged, each there once")
        print("\n".join(figures))


async def test_prometheus_finds_every_replica(deployment: Deployment) -> None:
    (prometheus,) = deployment.containers("prometheus")
    address = deployment.address("NEXTWORD_PROMETHEUS_PORT")

    def up() -> list[str]:
        reply = httpx2.get(f"{address}/api/v1/query", params={"query": 'up{job="nextword"} == 1'}, timeout=10).json()
        return [item["metric"]["instance"] for item in reply["data"]["result"]]

    await eventually(lambda: deployment.healthy(prometheus), 60, "Prometheus is healthy")
    await eventually(lambda: len(up()) == 2, 60, "it has asked both")


def test_one_service_keeps_its_sessions_over_a_restart(deployment: Deployment) -> None:
    deployment.compose("up", "--detach", "--no-build", "nextword")
    (container,) = deployment.containers("nextword")
    until(lambda: deployment.healthy(container), 60, "it is healthy")
    with httpx2.Client(base_url=deployment.address("NEXTWORD_PORT"), timeout=20) as client:
        opened = client.post("/v1/predict", json={"text": "I would like a cup"}).json()
        deployment.compose("restart", "--timeout", "40", "nextword")
        until(lambda: deployment.healthy(container), 60, "it is healthy again")
        body = {"session_id": opened["session_id"], "text": "of", "position": opened["position"]}
        reply = client.post("/v1/predict", json=body)
        assert reply.status_code == 200, reply.text
        assert reply.json()["position"] == 6
