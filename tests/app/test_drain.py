"""The end of the service: what is in hand is finished in time, and a second signal does not wait."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.app.process import serving, start

KEY = "a-key-that-is-long-enough"


def send(address: str, body: bytes) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    return connection


def until(process: subprocess.Popen[str], text: str) -> str:
    """Read the log up to a line with `text`."""
    assert process.stderr is not None
    line = ""
    while text not in line:
        line = process.stderr.readline()
        assert line, f"the server stopped before it said {text!r}"
    return line


def held(process: subprocess.Popen[str], address: str) -> socket.socket:
    """A request that is being served, and will not be answered."""
    process.send_signal(signal.SIGUSR1)
    connection = send(address, b'{"text": "the"}')
    with httpx2.Client(base_url=address, timeout=30) as client:
        while "nextword_num_requests_running 1.0" not in client.get("/metrics").text:
            pass
    return connection


def test_second_signal_stops_at_once(directory: Path) -> None:
    with (
        serving(directory, "--drain-seconds", "3000") as (process, address),
        held(process, address) as connection,
        httpx2.Client(base_url=address, timeout=30) as client,
    ):
        process.send_signal(signal.SIGTERM)
        while client.get("/readyz").status_code == 200:
            pass
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 1  # what was in hand is lost
        assert not connection.recv(65_536).startswith(b"HTTP/1.1 200")


def test_what_takes_longer_than_it_may_is_given_up(directory: Path) -> None:
    with (
        serving(directory, "--drain-seconds", "0.2") as (process, address),
        held(process, address) as connection,
    ):
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        answer = connection.recv(65_536)
        assert not answer.startswith(b"HTTP/1.1 200")


def test_keys_are_read_again_on_sighup(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n")
    with (
        serving(directory, "--api-keys-file", str(file)) as (process, address),
        httpx2.Client(base_url=address, timeout=30) as client,
    ):

        def status(key: str) -> int:
            return client.get("/v1/model", headers={"authorization": f"Bearer {key}"}).status_code

        assert (status(KEY), status(KEY + "-new")) == (200, 401)
        file.write_text(f"{KEY}-new\n{KEY}-other\n")
        process.send_signal(signal.SIGHUP)
        assert "2 keys are known now" in until(process, "keys")
        assert (status(KEY), status(KEY + "-new")) == (401, 200)
        file.write_text("short\n")
        process.send_signal(signal.SIGHUP)
        assert "the keys stay as they were" in until(process, "keys")
        assert status(KEY + "-new") == 200
        assert process.poll() is None


def test_sighup_without_keys_changes_nothing(directory: Path) -> None:
    with serving(directory) as (process, address):
        process.send_signal(signal.SIGHUP)
        until(process, "keys")
        assert httpx2.get(f"{address}/readyz", timeout=30).status_code == 200


@pytest.mark.parametrize("style", ["text", "json"])
def test_request_log_of_a_process(directory: Path, style: str) -> None:
    with serving(directory, "--log-format", style) as (process, address):
        httpx2.post(f"{address}/v1/predict", json={"text": "the"}, headers={"x-request-id": "r-1"}, timeout=30)
        line = until(process, "r-1")
        assert "/v1/predict" in line
        if style == "json":
            assert json.loads(line)["status"] == 200
        httpx2.get(f"{address}/livez", headers={"x-request-id": "r-2"}, timeout=30)
        process.send_signal(signal.SIGTERM)
        until(process, "r-2")
        assert process.wait(30) == 0


def test_request_log_can_be_turned_off(directory: Path) -> None:
    with serving(directory, "--no-access-log") as (process, address):
        httpx2.get(f"{address}/livez", headers={"x-request-id": "r-1"}, timeout=30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert "r-1" not in process.stderr.read()


def warned(directory: Path, *arguments: str) -> bool:
    process = start("--model", directory, "--port", "0", *arguments)
    assert process.stderr is not None
    said = ""
    try:
        while "ready:" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
    finally:
        process.kill()
        process.wait(30)
        process.stderr.close()
    return "NO KEYS" in said


def test_open_to_all_without_keys_is_said_aloud(directory: Path) -> None:
    assert warned(directory, "--host", "0.0.0.0")  # noqa: S104
    assert not warned(directory, "--host", "0.0.0.0", "--api-keys", KEY)  # noqa: S104


def test_wrong_keys_stop_the_start(directory: Path) -> None:
    process = start("--model", directory, "--port", "0", "--api-keys", "short")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith("nextword: key 1 of the setting api_keys: ")
    assert "short" not in said
    assert said.count("\n") == 1
