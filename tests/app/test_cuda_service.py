"""The service on the CUDA runtime, with an emulated device that holds few of the states."""

from __future__ import annotations

import anyio
import httpx2
import numpy as np
import pytest

from app.main import create_app
from app.settings import Settings
from model.runtimes.cpu import CpuRuntime
from model.runtimes.cuda import CudaRuntime
from model.runtimes.cuda_slab import SHARE, CudaSlab
from tests.app.conftest import leaked
from tests.model.emulated import EmulatedDevice, needs_compiler
from tests.model.test_cpu_runtime import V, artifact, some_words

SESSIONS, WORDS, ROWS = 20, 5, 18


@needs_compiler
@pytest.mark.anyio
async def test_more_sessions_than_the_device_holds_get_what_each_would_get_alone() -> None:
    model, device = artifact("lstm_stack"), EmulatedDevice()
    runtime = CudaRuntime(model, device, float16=False, most=8)
    device.free_memory = lambda: int((ROWS + 0.5) * 4 * runtime.network.stride / SHARE)
    app = create_app(Settings(max_batch=16, max_sessions=100), runtime=runtime, artifact=model)
    words = some_words(SESSIONS, WORDS)
    answers: dict[int, dict[str, float]] = {}

    async with app.router.lifespan_context(app):
        service = app.state.service
        await service.scheduler.started()
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:

            async def converse(number: int) -> None:
                session = None
                for id in words[number]:
                    fields = {"words": [model.tokenizer.vocabulary[id]], "top_k": 5} | (
                        {"session_id": session} if session else {}
                    )
                    reply = await client.post("/v1/predict", json=fields)
                    assert reply.status_code == 200, reply.text
                    session = reply.json()["session_id"]
                answers[number] = {p["word"]: p["log_probability"] for p in reply.json()["predictions"]}

            async with anyio.create_task_group() as group:
                for number in range(SESSIONS):
                    group.start_soon(converse, number)
            slab = service.scheduler.states.slab
            assert isinstance(slab, CudaSlab)
            assert slab.residency.rows == ROWS
            assert slab.residency.resident == ROWS
            assert service.scheduler.states.in_use > ROWS
        assert leaked(service) is None

    alone = CpuRuntime(model, quantised=False)
    state = alone.zero_state(SESSIONS)
    for ids in words.T:
        state = alone.advance(np.ascontiguousarray(ids), state)
    rows = alone.log_probabilities(state[-1])
    for number, predictions in answers.items():
        assert len(predictions) == 5
        for word, value in predictions.items():
            id = model.tokenizer.id_of(word)
            assert id is not None
            assert id < V
            np.testing.assert_allclose(value, rows[number, id], atol=1e-4)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
