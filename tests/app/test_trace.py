"""What is drawn of a session: its last words, what might have come next, and the hidden states in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.schemas import TraceReply
from app.trace import BINS, binned, hidden_tensors
from model.runtimes.base import StateTensor
from tests.app.conftest import Running, running
from tests.app.fake_runtime import PLAIN, SIZES, Oracle
from tests.app.test_fork import assert_stands
from tests.app.test_rewind import typed


async def traced(service: Running, session: str, query: str = "") -> list[dict[str, Any]]:
    response = await service.client.get(f"/v1/sessions/{session}/trace{query}")
    assert response.status_code == 200, response.text
    assert response.headers["x-session-id"] == session
    TraceReply.model_validate_json(response.content)
    words: list[dict[str, Any]] = response.json()["words"]
    return words


@pytest.mark.anyio
@pytest.mark.parametrize("last", [1, 5, 12, 64])
async def test_trace(service: Running, last: int) -> None:
    words = PLAIN[:12]
    session = await typed(service, words)
    trace = await traced(service, session, f"?last={last}")
    count = min(last, 12)
    assert [item["word"] for item in trace] == words[-count:]
    oracle = Oracle()
    oracle.consume(*words[: 12 - count])
    for item, position in zip(trace, range(13 - count, 13), strict=True):
        oracle.consume(words[position - 1])
        assert (item["position"], item["known"]) == (position, True)
        best = sorted(((p, word) for word, p in oracle.row().items() if word != "<unk>"), reverse=True)[:10]
        assert [prediction["word"] for prediction in item["predictions"]] == [word for _, word in best]
        assert [prediction["probability"] for prediction in item["predictions"]] == pytest.approx([p for p, _ in best])
        assert [(layer["name"], layer["layer"], layer["size"]) for layer in item["layers"]] == [
            ("h1", 0, SIZES[0]),
            ("h2", 1, SIZES[1]),
        ]
        for layer, state in zip(item["layers"], oracle.state, strict=True):
            assert layer["values"] == pytest.approx(state[0].tolist(), abs=1e-5)


@pytest.mark.anyio
async def test_looking_changes_nothing(service: Running) -> None:
    session = await typed(service, PLAIN[:6])
    before = (await service.client.get(f"/v1/sessions/{session}")).json()
    service.clock.now += 100
    assert await traced(service, session) == await traced(service, session)
    assert (await service.client.get(f"/v1/sessions/{session}")).json() == before
    await assert_stands(service, session, PLAIN[:6])


@pytest.mark.anyio
async def test_session_without_words(service: Running) -> None:
    assert await traced(service, (await service.ok())["session_id"]) == []


@pytest.mark.anyio
async def test_unknown_word(service: Running) -> None:
    trace = await traced(service, (await service.ok(words=["the", "zyzzyva"]))["session_id"])
    assert [(item["word"], item["known"]) for item in trace] == [("the", True), ("<unk>", False)]


@pytest.mark.anyio
async def test_words_that_are_forgotten_are_not_drawn() -> None:
    async with running(max_session_words=16, history_bytes=0) as service:
        session = await typed(service, PLAIN[:30])
        trace = await traced(service, session, "?last=64")
        assert 8 <= len(trace) <= 16
        assert [item["word"] for item in trace] == PLAIN[30 - len(trace) : 30]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("query", "field"), [("last=0", "last"), ("last=65", "last"), ("last=x", "last"), ("n=3", "n")]
)
async def test_query_that_is_wrong(service: Running, query: str, field: str) -> None:
    session = await typed(service, PLAIN[:2])
    response = await service.client.get(f"/v1/sessions/{session}/trace?{query}")
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == field


@pytest.mark.anyio
async def test_sessions_that_are_not_there(service: Running) -> None:
    session = (await service.ok(text="the"))["session_id"]
    await service.client.delete(f"/v1/sessions/{session}")
    assert (await service.client.get(f"/v1/sessions/{session}/trace")).status_code == 410
    assert (await service.client.get("/v1/sessions/nowhere/trace")).status_code == 404


@pytest.mark.anyio
async def test_failure_in_the_middle(service: Running) -> None:
    session = await typed(service, PLAIN[:6])
    service.runtime.poisoned = PLAIN.index("on") + 2
    assert (await service.client.get(f"/v1/sessions/{session}/trace")).status_code == 500
    service.runtime.poisoned = None
    assert len(await traced(service, session)) == 6


@pytest.mark.parametrize("size", [1, 63, 64, 65, 100, 128, 650, 1024])
def test_bins_are_means_of_all_units(size: int) -> None:
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    bins = binned(values)
    assert len(bins) == min(size, BINS)
    groups = np.array_split(values, len(bins))
    sizes = sorted({len(group) for group in groups})
    assert sizes[-1] - sizes[0] <= 1
    if size % len(bins) == 0:
        assert bins == pytest.approx([group.mean() for group in groups], abs=1e-6)
    assert bins.min() >= values.min()
    assert bins.max() <= values.max()


def test_hidden_state_is_the_last_tensor_of_its_layer() -> None:
    names = [("c0", 0), ("h0", 0), ("c1", 1), ("h1", 1)]
    tensors = tuple(StateTensor(name, 4, layer) for name, layer in names)
    assert [(index, tensor.name) for index, tensor in hidden_tensors(tensors)] == [(1, "h0"), (3, "h1")]
