"""`nextword serve` as people run it: in its own process, over real sockets, stopped by signals."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.settings import Settings
from tests.app.process import ROOT, environment, output, serving, start


def test_serves_and_stops_on_sigterm_after_what_is_in_hand(directory: Path) -> None:
    with serving(directory) as (process, address), httpx2.Client(base_url=address, timeout=20) as client:
        assert client.get("/readyz").status_code == 200
        opened = client.post("/v1/predict", json={"text": "the cat"}).json()
        process.send_signal(signal.SIGUSR1)
        host, port = address.removeprefix("http://").split(":")
        body = json.dumps({"session_id": opened["session_id"], "text": "sat", "position": 2}).encode()
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(request(body))
            # The server reads its sockets in the order in which they become ready: once this one is answered, the
            # request above has arrived.
            assert client.get("/livez").status_code == 200
            process.send_signal(signal.SIGTERM)
            with httpx2.Client(base_url=address, timeout=20) as balancer:
                while balancer.get("/readyz").status_code == 200:
                    pass
                refused = balancer.post("/v1/predict", json={"text": "the"})
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert process.poll() is None
                process.send_signal(signal.SIGUSR2)
            answer = b""
            while part := connection.recv(65_536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["position"] == 3
        assert process.wait(20) == 0


def request(body: bytes) -> bytes:
    return b"POST /v1/predict HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def test_client_that_closes_its_socket_changes_nothing(directory: Path) -> None:
    with serving(directory) as (process, address), httpx2.Client(base_url=address, timeout=20) as client:
        opened = client.post("/v1/predict", json={"text": "the cat"}).json()
        process.send_signal(signal.SIGUSR1)
        host, port = address.removeprefix("http://").split(":")
        for words in (["dog"], ["dog"] * 1000):
            body = json.dumps({"session_id": opened["session_id"], "words": words}).encode()
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(request(body))
                assert client.get("/livez").status_code == 200
        assert client.get("/livez").status_code == 200
        process.send_signal(signal.SIGUSR2)
        again = client.post("/v1/predict", json={"session_id": opened["session_id"], "position": 2}).json()
        assert again["position"] == 2
        assert [item["word"] for item in again["predictions"]] == [item["word"] for item in opened["predictions"]]


def test_sigterm_when_idle_and_sigint(directory: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with serving(directory) as (process, _):
            process.send_signal(number)
            assert process.wait(20) == 0


def test_port_in_use(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("--model", directory, "--port", str(port))
        line = output(process)
    assert process.returncode == 2
    assert re.fullmatch(rf"nextword: cannot listen on 127\.0\.0\.1:{port}: .+ in use; .*--port\n", line)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "version"])
def test_model_directory_that_cannot_be_used(directory: Path, tmp_path: Path, damage: str) -> None:
    target = tmp_path / "model"
    if damage != "missing":
        shutil.copytree(directory, target)
    if damage == "empty":
        for file in target.iterdir():
            file.unlink()
    if damage == "truncated":
        weights = target / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])
    if damage == "version":
        config: dict[str, Any] = json.loads((target / "config.json").read_text())
        (target / "config.json").write_text(json.dumps(config | {"format": 99}))
    process = start("--model", target, "--port", "0")
    text = output(process)
    assert process.returncode == 2
    assert re.fullmatch(r"nextword: .+\n", text), text
    assert str(target) in text


def test_wrong_setting_stops_the_start(directory: Path) -> None:
    process = start("--model", directory, NEXTWORD_MAX_BATCH="0")
    text = output(process)
    assert process.returncode == 2
    assert text.startswith("nextword: NEXTWORD_MAX_BATCH or --max-batch: ")
    assert text.count("\n") == 1


def test_runtime_that_cannot_be_loaded(directory: Path) -> None:
    code = (
        "import model.runtimes, app.cli\n"
        "def load(*_, **__): raise RuntimeError('no such device here')\n"
        "model.runtimes.load = load\n"
        "app.cli.main()\n"
    )
    command = [sys.executable, "-c", code, "serve", "--model", str(directory), "--port", "0"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "nextword: cannot run the model: no such device here\n"


def test_help_teaches_every_setting() -> None:
    command = [sys.executable, "-m", "tests.app.serve_fake", "--help"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment() | {"COLUMNS": "100"}, capture_output=True, text=True, check=True
    )
    text = " ".join(done.stdout.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert f"NEXTWORD_{name.upper()}" in text
        assert field.description is not None
        assert " ".join(field.description.split()) in text
    assert str(ROOT) not in text


def test_serving_imports_neither_chainer_nor_matplotlib() -> None:
    code = (
        "import sys, app.main, app.commands.serve, model.runtimes\n"
        "print([name for name in ('chainer', 'matplotlib', 'cupy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
