"""The service on the CUDA runtime, with an emulated device that holds few of the states."""

from __future__ import annotations

from typing import Any

import anyio
import httpx2
import numpy as np
import pytest

from app.engine import Engine, Job
from app.main import create_app
from app.settings import Settings
from app.speech import Speech
from app.states import START, States
from model import decoding
from model.decoding import Sampling
from model.runtimes.cpu import CpuRuntime
from model.runtimes.cuda import CudaRuntime
from model.runtimes.cuda_slab import SHARE, CudaSlab
from tests.app.conftest import leaked
from tests.model.emulated import Counts, EmulatedDevice, needs_compiler
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


class Bench:
    """An engine on an emulated device with room for so many states."""

    def __init__(self, rows: int = 100) -> None:
        model = artifact("lstm_stack")
        self.device = EmulatedDevice(lazy=True)
        self.runtime = CudaRuntime(model, self.device, float16=False, most=8)
        self.device.free_memory = lambda: int((rows + 0.5) * 4 * self.runtime.network.stride / SHARE)
        self.states = States(self.runtime, 100)
        self.engine = Engine(self.runtime, self.states, unknown_id=0, start_id=1, max_batch=8)
        self.engine.warm_up()
        self.oracle = CpuRuntime(model, quantised=False)

    def tick(self, *jobs: Job) -> Counts:
        """What one step of these jobs asks of the device."""
        before = self.device.counts
        for job in jobs:
            self.engine.join(job)
        self.engine.tick()
        return self.device.counts.since(before)

    def job(self, ids: list[int], source: int = START, **fields: Any) -> Job:
        return Job(ids, source, self.states.take(), 10, **fields)

    def rows(self, *texts: list[int]) -> Any:
        """Whole distributions after these texts."""
        states = []
        for text in texts:
            state = self.oracle.zero_state(1)
            for id in (1, *text):
                state = self.oracle.advance(np.array([id]), state)
            states.append(state[-1])
        return self.oracle.log_probabilities(np.concatenate(states))


ONE_EACH = Counts(launches=0, replays=1, copies_in=1, copies_out=1)


@needs_compiler
@pytest.mark.parametrize("sessions", [1, 2, 3, 8])
def test_a_word_for_each_of_many_sessions_is_one_launch_with_one_copy_in_and_one_out(sessions: int) -> None:
    bench = Bench()
    texts = [[2 + number] for number in range(sessions)]
    jobs = [bench.job(text) for text in texts]
    bench.tick(*jobs)  # loads the state that all begin in
    for word in range(30, 40):
        for text in texts:
            text.append(word)
        jobs = [bench.job([word], job.slot) for job in jobs]
        assert bench.tick(*jobs) == ONE_EACH
    for job, row in zip(jobs, bench.rows(*texts), strict=True):
        np.testing.assert_array_equal(job.top_ids, np.argsort(-row, kind="stable")[:10])
        np.testing.assert_allclose(job.top_log_probabilities, row[job.top_ids], atol=1e-4)
        np.testing.assert_allclose(job.unknown_log_probability, row[0], atol=1e-4)


@needs_compiler
def test_new_sessions_and_those_in_the_middle_of_a_text_share_the_launch() -> None:
    bench = Bench()
    bench.tick(bench.job([2]))
    for _ in range(2):  # the first of this size is recorded
        long, short = bench.job([3, 4, 5]), bench.job([6])
        counts = bench.tick(long, short)
        assert short.top_ids
        assert not long.top_ids
        bench.tick()
        bench.tick()
    assert counts == ONE_EACH
    for job, row in zip((long, short), bench.rows([3, 4, 5], [6]), strict=True):
        np.testing.assert_allclose(job.top_log_probabilities, row[job.top_ids], atol=1e-4)


@needs_compiler
def test_states_that_were_spilled_cost_copies_of_their_own_and_are_right() -> None:
    bench = Bench(rows=6)
    jobs = [bench.job([2 + number]) for number in range(12)]
    for job in jobs:
        bench.tick(job)
    again = [bench.job([40], job.slot) for job in jobs[:2]]
    counts = bench.tick(*again)
    assert counts.copies_out == 2  # the answer, and states that make room
    assert counts.copies_in > 1
    for job, row in zip(again, bench.rows([2, 40], [3, 40]), strict=True):
        np.testing.assert_allclose(job.top_log_probabilities, row[job.top_ids], atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1.0, top_k=40), Sampling(0.7, top_k=100, top_p=0.8)])
def test_a_word_that_is_said_costs_no_more_than_one_that_is_given(sampling: Sampling) -> None:
    bench = Bench()
    speech = Speech([2, 3], 8, sampling, seed=5, tops=3)
    job = bench.job(speech.ids, speech=speech)
    counts = [bench.tick(job), *(bench.tick() for _ in range(8))]
    assert counts[-4:] == [ONE_EACH] * 4
    for number, said in enumerate(speech.said):
        (row,) = bench.rows(speech.ids[: 2 + number])
        expected = decoding.sample(row, sampling, decoding.uniform(5, number), without=0)
        assert said.id == expected
        assert said.rank == decoding.rank(row, said.id)
        np.testing.assert_allclose(said.log_probability, row[said.id], atol=1e-4)
        np.testing.assert_array_equal(said.top_ids, np.argsort(-row, kind="stable")[:3])


@needs_compiler
def test_scores_come_back_many_at_a_time() -> None:
    bench = Bench()
    words = some_words(2, 20)
    for _ in range(2):
        jobs = [bench.job(text.tolist(), score_from=0, score_tops=4) for text in words]
        counts = [bench.tick(*jobs), *(bench.tick() for _ in range(19))]
    # A word's output is put aside on the device; nothing comes back before the scores of the whole texts do.
    assert {count.copies_out for count in counts[:-1]} == {0}
    assert counts[-1].copies_out == 40 // 8 + 1  # the scores, and what may come next
    for job, text in zip(jobs, words.tolist(), strict=True):
        rows = bench.rows(*(text[:length] for length in range(20)))
        np.testing.assert_allclose(job.scores.log_probabilities, rows[np.arange(20), text], atol=1e-4)
        assert job.scores.ranks == [decoding.rank(row, id) for row, id in zip(rows, text, strict=True)]
        for (ids, values), row in zip(job.scores.tops or (), rows, strict=True):
            np.testing.assert_array_equal(ids, np.argsort(-row, kind="stable")[:4])
            np.testing.assert_allclose(values, row[ids], atol=1e-4)


@needs_compiler
def test_words_that_begin_alike_are_found_where_the_states_are() -> None:
    bench = Bench()
    bench.tick(bench.job([2]))
    among = np.arange(100, 120)
    job = bench.job([3], prefix="w1", prefix_ids=among)
    bench.tick(job)
    (row,) = bench.rows([3])
    np.testing.assert_array_equal(job.top_ids, among[np.argsort(-row[among], kind="stable")][:10])
    np.testing.assert_allclose(job.prefix_log_probability, np.log(np.exp(row[among]).sum()), atol=1e-4)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
