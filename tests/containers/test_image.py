"""The CPU image: what is in it, and how it lives and ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import httpx2
import pytest

from tests.containers.engine import Engine, until
from tests.containers.images import BASE, CPU
from tests.containers.machine import ROOT, Mirror, Traces
from tests.containers.reference import Sequence

LARGEST = 350_000_000
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=512m", "--pids-limit=256")


class Container:
    """One of the image, on a port of its own."""

    def __init__(self, engine: Engine, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._engine = engine
        run = ["run", "--detach", "--network=host", f"--env=NEXTWORD_PORT={port}", "--env=NEXTWORD_HOST=127.0.0.1"]
        self.id = engine.docker(*run, *HARDENED, *options, CPU)

    @property
    def pid(self) -> int:
        """Of its first process, as this machine counts."""
        return int(self._engine.inspect(self.id)["State"]["Pid"])

    def status(self) -> int | None:
        """Of its readiness; None when nobody answers."""
        try:
            return httpx2.get(f"{self.address}/readyz", timeout=5).status_code
        except httpx2.TransportError:
            return None

    def ready(self) -> bool:
        return self.status() == 200

    def ended(self) -> int:
        """Its exit status, once it has ended."""
        return int(self._engine.docker("wait", self.id))

    def log(self) -> str:
        """What it said, on either stream."""
        return self._engine.docker("logs", self.id, stderr=subprocess.STDOUT)


@contextmanager
def container(engine: Engine, *options: str) -> Iterator[Container]:
    it = Container(engine, *options)
    try:
        yield it
    finally:
        engine.docker("rm", "--force", it.id)


def test_its_own_layers_are_small(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    whole, base = (int(engine.inspect(name)["Size"]) for name in (CPU, BASE))
    with capsys.disabled():
        print(f"\nCPU image: {(whole - base) / 1e6:.0f} MB above its base of {base / 1e6:.0f} MB")
    assert 0 < whole - base <= LARGEST


def test_it_says_what_it_is(engine: Engine) -> None:
    labels = engine.inspect(CPU)["Config"]["Labels"]
    names = ("title", "description", "licenses", "version", "revision")
    assert all(labels[f"org.opencontainers.image.{name}"] for name in names)
    assert f'version = "{labels["org.opencontainers.image.version"]}"' in (ROOT / "pyproject.toml").read_text()


def test_nothing_of_this_machine_is_in_it(engine: Engine, packages: Mirror, folder: Path) -> None:
    traces = Traces(packages)
    described = json.dumps(engine.inspect(CPU)) + engine.docker("history", "--no-trunc", CPU)
    assert traces.found_in(described.encode()) == set()
    archive = folder / "image.tar"
    engine.docker("save", "--output", archive, CPU, timeout=120)
    seen, found = 0, {}
    with tarfile.open(archive) as image:

        def member(name: str) -> IO[bytes]:
            content = image.extractfile(name)
            assert content is not None
            return content

        (manifest,) = json.load(member("manifest.json"))
        for name in manifest["Layers"]:
            with tarfile.open(fileobj=member(name)) as layer:
                for file in layer:
                    content = layer.extractfile(file) if file.isfile() else None
                    if content is not None:
                        seen += 1
                        if here := traces.found_in(content.read()):
                            found[file.name] = here
    archive.unlink()
    assert seen > 5000  # or it was not the image that was read
    assert traces.found_in(b"/" + bytes(ROOT) + b"/app")  # or nothing would ever be found
    assert found == {}


def test_nothing_of_this_machine_is_in_the_repository(packages: Mirror) -> None:
    traces = Traces(packages)
    command = ["git", "-C", ROOT, "ls-files", "-z"]
    names = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode().split("\0")
    files = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert len(files) > 100
    assert {str(file): found for file in files if (found := traces.found_in(file.read_bytes()))} == {}


def test_it_serves_without_rights_on_a_file_system_it_cannot_write(engine: Engine) -> None:
    with container(engine) as it:
        until(it.ready, 60, "it is ready")
        status = Path(f"/proc/{it.pid}/status").read_text()
        assert "Uid:\t10001\t10001\t10001\t10001" in status
        assert "CapEff:\t0000000000000000" in status
        body = {"text": "I would like a cup of", "top_k": 5}
        reply = httpx2.post(f"{it.address}/v1/predict", json=body, timeout=30).json()
        assert reply["position"] == 6
        sequence = Sequence()
        sequence.consume(*(word["word"] for word in reply["words"]))
        for prediction in reply["predictions"]:
            right = sequence.probability(prediction["word"])
            assert prediction["probability"] == pytest.approx(right, rel=sequence.tolerance)
        until(lambda: engine.inspect(it.id)["State"]["Health"]["Status"] == "healthy", 30, "it is said to be healthy")
        assert "telemetry" not in it.log()


def test_what_builds_is_not_in_it(engine: Engine) -> None:
    with container(engine) as it:
        for command in ("pip", "pip3", "gcc", "cc", "make", "git", "curl"):
            assert engine.docker("exec", it.id, "sh", "-c", f"command -v {command} || true") == ""
        for module in ("pip", "setuptools", "wheel", "ensurepip"):
            code = f"import importlib.util; print(importlib.util.find_spec('{module}'))"
            for python in ("python", "/usr/bin/python3"):
                assert engine.docker("exec", it.id, python, "-c", code) == "None"


def test_sigterm_lets_what_is_in_hand_finish(engine: Engine) -> None:
    with container(engine) as it, ExitStack() as stack:
        until(it.ready, 60, "it is ready")
        body = {"text": "once upon a time", "max_words": 1000, "stream": True}
        streams = []
        for seed in range(8):
            request = httpx2.stream("POST", f"{it.address}/v1/generate", json=body | {"seed": seed}, timeout=60)
            streams.append(stack.enter_context(request).iter_lines())
            next(streams[-1])
        stopping = threading.Thread(target=engine.docker, args=("stop", "--time=40", it.id))
        stopping.start()
        until(lambda: it.status() == 503, 20, "it drains")
        for lines in streams:
            rest = list(lines)
            done = json.loads(rest[rest.index("event: done") + 1].removeprefix("data: "))
            assert len(done["words"]) == 1000
        stopping.join(60)
        assert it.ended() == 0
        assert not engine.inspect(it.id)["State"]["OOMKilled"]


def test_sigterm_ends_it_before_it_is_ready(engine: Engine) -> None:
    with container(engine) as it:

        def catches_sigterm() -> bool:
            caught = Path(f"/proc/{it.pid}/status").read_text().partition("SigCgt:\t")[2].split()[0]
            return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

        until(catches_sigterm, 30, "it has something to say to SIGTERM")
        engine.docker("kill", "--signal=TERM", it.id)
        assert it.ended() == 0
        assert "ready:" not in it.log()


def test_it_is_not_healthy_while_it_is_not_ready(engine: Engine) -> None:
    check = engine.inspect(CPU)["Config"]["Healthcheck"]["Test"][1:]
    settings = ("--env=NEXTWORD_STORE=redis://127.0.0.1:9/0", "--env=NEXTWORD_SESSION_KEY=a key for nobody")
    with container(engine, *settings) as it:
        until(lambda: it.status() == 503, 60, "it answers")
        with pytest.raises(AssertionError):
            engine.docker("exec", it.id, *check)


def test_a_secret_that_it_may_not_read_is_named(engine: Engine, folder: Path) -> None:
    secret = folder / "secret"
    secret.write_text("a key that only root may read\n")
    secret.chmod(0o600)
    assert secret.stat().st_uid != 10001
    with container(engine, f"--volume={secret}:/run/secrets/nextword_session_key:ro") as it:
        assert it.ended() == 2
        said = it.log()
        assert "cannot read the secret /run/secrets/nextword_session_key: Permission denied" in said
        assert said.count("\n") == 0
