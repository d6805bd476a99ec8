"""What the GPU benchmark makes of its contenders' answers; those need a GPU."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from app.settings import SHIPPED_MODEL
from model.artifact import Artifact
from model.runtimes.cpu import CpuRuntime
from tests.benchmarks import gpu, gpu_steps, report
from tests.benchmarks.harness import Answer, BenchmarkError, MissingError
from tests.model.test_cpu_runtime import artifact, some_words

CEILINGS = {"name": "A GPU", "float16": 8e14, "tf32": 4e14, "float32": 5e13, "bandwidth": 4e12, "launch": 8e-6}


class Answering:
    """A worker that answers without a GPU: steps of 50 us and a word's microsecond, twice and thrice as much, ..."""

    missing: ClassVar[bool] = False
    stops_at: ClassVar[int | None] = None
    given: ClassVar[list[Any]] = []

    def __init__(self, module: str, name: str, path: str) -> None:
        self.name = name

    def ready(self) -> None:
        if self.missing and self.name == "torch":
            raise MissingError("torch is not installed")

    def ask(self, **question: Any) -> Answer:
        if self.name == "ceilings":
            return CEILINGS
        if self.name == "agreement":
            self.given.append(question["given"])
            return {"chainer": [0.0, 20.0], "cuda-float32": [1e-6, 20.0], "cuda": [0.004, 20.01]}
        slower = 2 if self.name == "torch" else 1
        if "tf32" in question:
            return {"speed": (300_000 if question["tf32"] else 100_000) / slower}
        if self.name == "torch" and question["batch"] == self.stops_at:
            raise BenchmarkError("out of memory")
        return {"seconds": slower * (40e-6 + question["batch"] * 0.2e-6)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[Answering]:
    class Fresh(Answering):
        pass

    monkeypatch.setattr(gpu, "Worker", Fresh)
    return Fresh


def test_a_section_is_written_a_part_at_a_time(worker: type[Answering]) -> None:
    written: list[str] = []
    text = gpu.run("make bench-gpu", quick=True, model=None, data=None, write=written.append)
    assert written[-1] == text
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(written))
    assert [len(written), text.count("\n### ")] == [5, 4]
    assert "| 4,096 | 859.2 | 4,767,225 |" in text
    assert "words a second at batch 4096: **4,767,225**; aim at least 4,000,000: met." in text
    assert "PyTorch's step over ours, the least of all batches: **2**; aim at least 1.5: met." in text
    assert "times PyTorch's words a second, TF32: **2**; aim at least 1: met." in text
    assert "float16: perplexity moves by: **0.05 %**; aim at most 0.2 %: met." in text
    assert report.replaced("", "gpu", text).count("<!-- gpu:begin -->") == 1


def test_runtimes_are_compared_on_a_text_if_one_is_given(worker: type[Answering], tmp_path: Path) -> None:
    worker.given = []
    text = tmp_path / "held-out.txt"
    text.write_text("the cat sat on the mat and " * 30)  # 210 words: 3 for each of 64 pieces
    said = gpu.run("make bench-gpu", quick=True, model=None, data=text, write=None)
    assert "64 texts of 3 words, the beginning of held-out.txt; whole rows" in said
    (given,) = worker.given
    ids = Artifact.load(SHIPPED_MODEL).tokenizer.encode(text.read_text()).ids
    assert np.array(given).T.reshape(-1).tolist() == ids[:192].tolist()
    text.write_text("too short")
    with pytest.raises(BenchmarkError, match="has 2 words; 64 are the least"):
        gpu.run("make bench-gpu", quick=True, model=None, data=text, write=None)


def test_agreement_is_of_the_words_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    model = artifact("lstm_stack")
    runtime = CpuRuntime(model, quantised=False)
    monkeypatch.setattr("model.runtimes.load", lambda _model, _name: runtime)
    words = some_words(3, 5)  # of three texts
    found = gpu_steps.agreement(model)(streams=3, words=5, given=words.T.tolist())
    state, before, surprise = runtime.zero_state(3), np.zeros(3, np.int64), 0.0
    for ids in words.T:
        state = runtime.advance(before, state)
        surprise -= float(runtime.log_probabilities(state[-1])[np.arange(3), ids].sum())
        before = ids.copy()
    assert found["cuda"] == pytest.approx([0, np.exp(surprise / 15)], rel=1e-6)


def test_without_pytorch_ours_is_measured(worker: type[Answering]) -> None:
    worker.missing = True
    text = gpu.run("make bench-gpu", quick=True, model=None, data=None, write=None)
    assert text.count("No PyTorch: torch is not installed.") == 3
    assert "PyTorch's step over ours, the least of all batches: aim at least 1.5; not measured." in text
    assert "| 4,096 | 859.2 |" in text


def test_a_peer_that_stops_does_not_stop_ours(worker: type[Answering]) -> None:
    worker.stops_at = 64
    text = gpu.run("make bench-gpu", quick=True, model=None, data=None, write=None)
    assert "PyTorch stopped at batch 64: out of memory." in text
    assert "| 4,096 | 859.2 |" in text


def test_the_floor_of_the_large_model_is_the_one_counted_by_hand() -> None:
    network = {
        "kind": "lstm_stack",
        "vocabulary_size": 33_278,
        "embedding_size": 400,
        "hidden_sizes": [1150, 1150, 400],
    }
    floor = gpu.Floor.of(network, CEILINGS)
    layers = 4600 * (400 + 1150) + 4600 * (1150 + 1150) + 1600 * (1150 + 400)
    assert floor.products == 33_278 * 400 + layers
    assert floor.seconds(1) == pytest.approx(2 * floor.products / 4e12, rel=0.05)
    of_products = 2 * floor.products * 4096 / 8e14
    assert floor.seconds(4096) == pytest.approx(of_products + 8 * 4096 * (33_278 + 5400) / 4e12)
