"""States on an emulated device that holds few of them, against states in the host's memory."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.cuda.device import cupy_device
from model.runtimes.base import DeviceMemoryError, StateLostError
from model.runtimes.cuda import CudaRuntime
from model.runtimes.cuda_slab import CudaSlab
from model.runtimes.residency import HOST, ZERO, Residency
from model.runtimes.slab import HostSlab, slab_of
from tests.gpu.device import needs_gpu
from tests.model.emulated import Counts, DeviceFullError, EmulatedDevice, needs_compiler
from tests.model.test_cpu_runtime import V, artifact, assert_equal

SLOTS = 24


def ids(*numbers: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(numbers, np.int64)


# Where a state is: the bookkeeping alone.


def test_the_states_used_least_recently_make_room() -> None:
    residency = Residency(slots=10, rows=4)
    for slot in (1, 2, 3, 4):
        residency.place(ids(), ids(slot))
    residency.place(ids(1), ids())
    placed = residency.place(ids(), ids(5, 6))
    assert sorted(placed.spilled_slots) == [2, 3]
    assert residency.find(ids(2, 3)).tolist() == [HOST, HOST]
    assert (residency.find(ids(1, 4, 5, 6)) >= 0).all()


def test_what_is_on_the_host_is_loaded_once_for_all_who_read_it() -> None:
    residency = Residency(slots=10, rows=4)
    residency.forget(ids(7), HOST)
    placed = residency.place(ids(7, 7, 8), ids(1, 2, 3))
    assert placed.loaded_slots.tolist() == [7]
    assert placed.sources.tolist() == [placed.loaded_rows[0], placed.loaded_rows[0], ZERO]
    assert len({*placed.rows, *placed.loaded_rows}) == 4


def test_a_zero_state_that_moves_on_in_its_own_slot_is_read_as_zero() -> None:
    residency = Residency(slots=3, rows=2)
    placed = residency.place(ids(1), ids(1))
    assert placed.sources.tolist() == [ZERO]
    assert placed.rows[0] >= 0
    assert residency.place(ids(1), ids(1)).sources.tolist() == placed.rows.tolist()


def test_what_is_overwritten_is_not_loaded() -> None:
    residency = Residency(slots=4, rows=2)
    residency.forget(ids(1, 2), HOST)
    placed = residency.place(ids(1), ids(2))
    assert placed.loaded_slots.tolist() == [1]


def test_a_batch_that_cannot_be_there_together_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit into 2 rows"):
        Residency(slots=9, rows=2).place(ids(), ids(1, 2, 3))


def test_rows_that_are_forgotten_are_free() -> None:
    residency = Residency(slots=9, rows=2)
    for slot in range(9):
        residency.place(ids(), ids(slot))
        residency.forget(ids(slot, slot))
    assert residency.resident == 0


# On an emulated device.


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(lambda: EmulatedDevice(lazy=True), marks=needs_compiler, id="emulated"),
        pytest.param(lambda: cupy_device(0), marks=needs_gpu, id="on_a_gpu"),
    ],
)
def runtime(request: pytest.FixtureRequest) -> CudaRuntime:
    return CudaRuntime(artifact("lstm_stack"), request.param(), float16=False, most=8)


_NUMBERS = itertools.count()
_slot = st.integers(0, SLOTS - 1)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.lists(st.tuples(_slot, _slot), min_size=1, max_size=12)),
        st.tuples(st.just("stay"), st.lists(_slot, min_size=1, max_size=12, unique=True)),
        st.tuples(
            st.sampled_from(["clear", "write", "project", "hidden", "trim", "aside"]), st.lists(_slot, max_size=9)
        ),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(steps=_steps, rows=st.integers(2, SLOTS), seed=st.integers(0, 99))
def test_it_is_the_host_slab_whatever_is_spilled(runtime: CudaRuntime, steps: Any, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    slab = CudaSlab(runtime, SLOTS, f"test {next(_NUMBERS)}", rows)
    host = HostSlab(runtime, SLOTS)
    asides = slab.aside(SLOTS), host.aside(SLOTS)
    for name, chosen in steps:
        if name == "advance":
            # A slot is written once in a batch, and is then nobody else's source.
            pairs = {slot: source for source, slot in chosen}
            sources = [source for slot, source in pairs.items() if source not in pairs or source == slot]
            slots = [slot for slot, source in pairs.items() if source not in pairs or source == slot]
            arguments = random.integers(0, V, len(slots)), ids(*sources), ids(*slots)
            slab.advance(*arguments)
            host.advance(*arguments)
        elif name == "stay":
            arguments = random.integers(0, V, len(chosen)), ids(*chosen), ids(*chosen)
            slab.advance(*arguments)
            host.advance(*arguments)
        elif name == "project":
            words = random.integers(0, V, (len(chosen), int(random.integers(0, 3))))
            ours, theirs = (it.project_words(ids(*chosen), words, top_k=3) for it in (slab, host))
            np.testing.assert_array_equal(ours.top_ids, theirs.top_ids)
            np.testing.assert_allclose(ours.log_probabilities, theirs.log_probabilities, atol=1e-5)
        elif name == "aside":
            first = int(random.integers(0, SLOTS - len(chosen)))
            for aside in asides:
                aside.put(ids(*chosen), first)
        elif name == "hidden":
            np.testing.assert_allclose(slab.hidden(chosen), host.hidden(chosen), atol=1e-5)
        elif name == "write":
            state = tuple(random.normal(size=(len(set(chosen)), t.size)).astype("f") for t in runtime.state_tensors)
            for it in (slab, host):
                it.write(sorted(set(chosen)), state)
        else:
            for it in (slab, host):
                it.clear(sorted(set(chosen)))
            if name == "trim":
                slab.trim(ids(*sorted(set(chosen))))
        assert slab.residency.resident <= rows
    for ours, theirs in zip(slab.read(range(SLOTS)), host.read(range(SLOTS)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(*(aside.hidden(np.arange(SLOTS)) for aside in asides), atol=1e-5)


def test_projections_are_the_runtimes_own(runtime: CudaRuntime) -> None:
    slab = slab_of(runtime, SLOTS)
    assert isinstance(slab, CudaSlab)
    slots = ids(1, 2, 3)
    slab.advance(ids(5, 6, 7), ids(0, 0, 0), slots)
    hidden, words = slab.hidden(slots), ids(9, 4, 30)[None].repeat(3, 0)
    for count, top_k in ((0, 2), (1, 2), (3, 2), (3, 200)):
        ours = slab.project_words(slots, words[:, :count], top_k=top_k)
        theirs = runtime.project_words(hidden, words[:, :count], top_k=top_k)
        np.testing.assert_array_equal(ours.top_ids, theirs.top_ids)
        np.testing.assert_allclose(ours.top_log_probabilities, theirs.top_log_probabilities, atol=1e-6)
        np.testing.assert_allclose(ours.log_probabilities, theirs.log_probabilities, atol=1e-6)
    aside = slab.aside(9)
    aside.put(slots, 4)
    slab.advance(ids(8, 8, 8), slots, slots)  # what was put aside stays
    np.testing.assert_array_equal(aside.hidden(ids(4, 5, 6)), hidden)
    for kept, numbers, outputs in ((aside, ids(4, 5, 6), hidden), (slab, slots, slab.hidden(slots))):
        np.testing.assert_array_equal(kept.log_probabilities(numbers), runtime.log_probabilities(outputs))
        for top_k in (0, 5, 200):
            ours, theirs = (
                kept.project(numbers, top_k=top_k, targets=words[0]),
                runtime.project(outputs, top_k=top_k, targets=words[0]),
            )
            assert_equal(ours, theirs, 1e-6)
            subset = kept.project_subset(numbers, words[0], top_k=top_k)
            expected = runtime.project_subset(outputs, words[0], top_k=top_k)
            np.testing.assert_array_equal(subset.top_ids, expected.top_ids)
            np.testing.assert_array_equal(subset.log_probabilities, expected.log_probabilities)


@needs_compiler
def test_as_many_states_as_fit_are_on_the_device() -> None:
    model = artifact("lstm_stack")
    device = EmulatedDevice()
    runtime = CudaRuntime(model, device, float16=False, most=8)
    device.memory = 40 * 4 * runtime.network.stride  # in one piece, and all in all
    slab = runtime.slab(1000)
    assert isinstance(slab, CudaSlab)
    assert 20 <= slab.residency.rows < 40
    device.free_memory = lambda: 1 << 40  # what is free is in pieces: halved until it fits
    assert 20 <= CudaSlab(runtime, 1000, "halved").residency.rows < 40
    device.memory = 8
    with pytest.raises(DeviceMemoryError, match="has no memory left"):
        runtime.slab(1000)


@needs_compiler
def test_without_memory_one_call_fails_and_the_next_does_not() -> None:
    device = EmulatedDevice()
    runtime = CudaRuntime(artifact("lstm_stack"), device, float16=False, most=8)
    slab = runtime.slab(SLOTS)
    slab.advance(ids(1), ids(0), ids(1))
    before, device.memory = device.memory, 100
    with pytest.raises(DeviceMemoryError):
        slab.project_words(ids(1), np.arange(V)[None], top_k=3)
    slab.advance(ids(2), ids(1), ids(1))  # what needs nothing more goes on
    device.memory = before
    assert slab.project_words(ids(1), np.arange(V)[None], top_k=3).top_ids.shape == (1, 3)
    state = runtime.zero_state(1)
    for word in (1, 2):  # each of which was consumed once
        state = runtime.advance(ids(word), state)
    np.testing.assert_array_equal(slab.hidden([1]), state[-1])


def test_threads_take_turns(runtime: CudaRuntime) -> None:
    slab = CudaSlab(runtime, SLOTS, "threads", 6)
    slab.advance(ids(1), ids(0), ids(1))
    expected = slab.hidden([1])
    wrong: list[object] = []

    def read() -> None:
        for _ in range(20):
            if not np.array_equal(slab.hidden([1]), expected):
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for slot in range(2, 22):
        slab.advance(ids(slot), ids(0), ids(slot))
    for thread in threads:
        thread.join()
    assert not wrong


@needs_compiler
def test_warm_every_size_of_batch_is_recorded_and_no_state_has_changed() -> None:
    device = EmulatedDevice()
    runtime = CudaRuntime(artifact("lstm_stack"), device, float16=False, most=8)
    slab = CudaSlab(runtime, SLOTS, "warm")
    slab.warm_up(6, top_k=10)
    assert all(not tensor.any() for tensor in slab.read(range(SLOTS)))
    assert slab.residency.resident == 0
    # Two copies; of three layers, a product and a cell each; gather, hidden_rows, a product, look, merge.
    assert device.nodes == 2 + 3 * 2 + 5
    for batch in range(1, 7):
        slots = np.arange(1, batch + 1)
        slab.read([0])
        before = device.counts
        slab.advance(np.zeros(batch, np.int64), np.zeros(batch, np.int64), slots)
        slab.project_words(slots, np.zeros((batch, 1), np.int64), top_k=10)
        assert device.counts.since(before) == Counts(launches=0, replays=1, copies_in=1, copies_out=1)
        before = device.counts
        for _ in range(3):  # in the middle of a text; the third waits to be launched
            slab.advance(np.zeros(batch, np.int64), slots, slots)
        assert device.counts.since(before) == Counts(launches=0, replays=2, copies_in=2, copies_out=0)


# What fails on the device. These change the runtime, so each has its own.


def a_runtime() -> CudaRuntime:
    return CudaRuntime(artifact("lstm_stack"), EmulatedDevice(), float16=False, most=8)


def state_after(*words: int) -> Any:
    runtime = a_runtime()
    state = runtime.zero_state(1)
    for word in words:
        state = runtime.advance(ids(word), state)
    return state


@needs_compiler
def test_what_cannot_be_recorded_has_run_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = a_runtime()
    slab = CudaSlab(runtime, SLOTS, "slab")

    def record(work: object) -> Any:
        raise RuntimeError("capture failed")

    monkeypatch.setattr(runtime.on, "record", record)
    for word, source in ((3, 0), (5, 1)):
        slab.advance(ids(word), ids(source), ids(1))
        slab.project(ids(1), top_k=5)
    assert "not recorded, and slower for it: capture failed" in caplog.text
    for found, expected in zip(slab.read([1]), state_after(3, 5), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("error", [RuntimeError, DeviceFullError])
def test_states_whose_launch_failed_are_lost_and_no_others(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = a_runtime()
    slab = CudaSlab(runtime, SLOTS, "slab")
    slab.advance(ids(3), ids(0), ids(1))
    slab.project(ids(1), top_k=5)
    step, broken = runtime._step, [2]

    def failing(source: Any, moves: Any, *rest: Any) -> Any:
        if len(moves.ids) == 2 and broken[0]:
            broken[0] -= 1
            raise error("the device failed")
        return step(source, moves, *rest)

    monkeypatch.setattr(runtime, "_step", failing)
    slab.advance(ids(5, 6), ids(1, 0), ids(1, 2))
    with pytest.raises(RuntimeError):
        slab.project(ids(1, 2), top_k=5)
    slab.project(ids(0), top_k=5)
    for ask in (lambda: slab.project(ids(1), top_k=5), lambda: slab.read([2]), lambda: slab.hidden([0, 2])):
        with pytest.raises(StateLostError, match="the device failed while it computed this state"):
            ask()
    with pytest.raises(StateLostError):
        slab.advance(ids(4), ids(2), ids(3))
    slab.clear([1])
    slab.write([2], state_after(3))
    slab.advance(ids(5), ids(2), ids(4))
    for slot, expected in ((1, runtime.zero_state(1)), (2, state_after(3)), (4, state_after(3, 5))):
        for found, wanted in zip(slab.read([slot]), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)


@needs_compiler
def test_a_launch_without_memory_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = a_runtime()
    slab = CudaSlab(runtime, SLOTS, "slab")
    step, broken = runtime._step, [1]

    def failing(*arguments: Any) -> Any:
        if broken[0]:
            broken[0] -= 1
            raise DeviceFullError("none left")
        return step(*arguments)

    monkeypatch.setattr(runtime, "_step", failing)
    slab.advance(ids(3), ids(0), ids(1))
    for found, expected in zip(slab.read([1]), state_after(3), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
