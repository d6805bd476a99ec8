from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import pytest

from model import runtimes
from model.artifact import Artifact
from model.shapes import parameter_shapes
from model.tokenizer import Tokenizer
from tests.model.emulated import COMPILER, EmulatedDevice, needs_compiler

NETWORK = {"kind": "lstm_stack", "vocabulary_size": 5, "embedding_size": 4, "hidden_sizes": [6, 4]}


@pytest.fixture
def artifact() -> Artifact:
    random = np.random.default_rng(0)
    return Artifact(
        name="tiny",
        id="tiny@0",
        network=NETWORK,
        start=None,
        measured={},
        tokenizer=Tokenizer.from_vocabulary(["<unk>", "a", "b", "c", "d"], "split"),
        weights={
            name: random.uniform(-0.5, 0.5, shape).astype(np.float32)
            for name, shape in parameter_shapes(NETWORK).items()
        },
        card="",
    )


@pytest.mark.parametrize("name", ["cpu", "cpu-float32", "chainer"])
def test_a_runtime_is_what_it_was_asked_for(artifact: Artifact, name: str) -> None:
    assert runtimes.load(artifact, name).name == name


def gpu(monkeypatch: pytest.MonkeyPatch, failure: str | None, device: Any = None, *, expected: bool = True) -> None:
    """A machine with CuPy on it, or not; its driver's answer; and what computes."""
    monkeypatch.setattr(runtimes, "cuda_failure", lambda: failure)
    monkeypatch.setattr(runtimes, "no_cuda_expected", lambda: not expected)

    def cupy_device(_: int) -> Any:
        if isinstance(device, Exception):
            raise device
        return device

    monkeypatch.setattr("model.cuda.device.cupy_device", cupy_device)


def test_auto_is_the_cpu_and_silent_where_nobody_expects_a_gpu(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpu(monkeypatch, "CuPy is not installed", expected=False)
    assert runtimes.load(artifact).name == "cpu"
    assert not caplog.records
    with pytest.raises(runtimes.RuntimeUnavailableError, match="needs a GPU: CuPy is not installed"):
        runtimes.load(artifact, "cuda")


@needs_compiler
@pytest.mark.parametrize(("name", "found"), [("auto", "cuda"), ("cuda", "cuda"), ("cuda-float32", "cuda-float32")])
def test_a_gpu_that_computes_is_taken(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, name: str, found: str
) -> None:
    gpu(monkeypatch, None, EmulatedDevice())
    assert runtimes.load(artifact, name).name == found


class CompileError(Exception):
    """As CuPy raises it."""


UNUSABLE = {
    "a driver that is too old": ("the CUDA driver does not answer: cudaErrorInsufficientDriver: too old", None),
    "no device": ("no CUDA device is there", None),
    "no cuBLAS": (None, ImportError("libcublas.so.13: cannot open shared object file:\n No such file")),
    "no headers": (None, CompileError('kern.cu(3): error: cannot open source file "cuda_fp16.h"')),
    "no memory": (None, EmulatedDevice(memory=100)),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_gpu_that_cannot_be_used_is_a_line_and_auto_goes_on_without(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    failure, device = UNUSABLE[case]
    if case == "no memory" and COMPILER is None:
        pytest.skip("no C++ compiler to run the kernels with")
    gpu(monkeypatch, failure, device)
    with caplog.at_level(logging.WARNING):
        assert runtimes.load(artifact).name == "cpu"
    assert "the model runs on the CPU: " in caplog.text
    with pytest.raises(runtimes.RuntimeUnavailableError) as error:
        runtimes.load(artifact, "cuda")
    line = str(error.value)
    assert "\n" not in line
    assert line in caplog.text
    expected = {
        "a driver that is too old": "cudaErrorInsufficientDriver",
        "no device": "no CUDA device is there",
        "no cuBLAS": "(ImportError: libcublas.so.13: cannot open shared object file: No such file). CUDA's headers and",
        "no headers": "cuda_fp16.h\"). CUDA's headers and libraries come with pip install 'nextword[cuda13]'",
        "no memory": "the model does not fit: cuda:0 has no memory left",
    }[case]
    assert expected in line


@needs_compiler
def test_weights_that_float16_cannot_hold_have_another_runtime(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(monkeypatch, None, EmulatedDevice())
    artifact.weights["embed/W"][2, 1] = 1e6
    with pytest.raises(runtimes.RuntimeUnavailableError, match=r"float16: take --runtime cuda-float32"):
        runtimes.load(artifact, "cuda")
    assert runtimes.load(artifact, "cuda-float32").name == "cuda-float32"


def test_the_reference_without_chainer_says_what_is_missing(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model.runtimes.reference", None)
    with pytest.raises(runtimes.RuntimeUnavailableError):
        runtimes.load(artifact, "chainer")


def test_an_unknown_runtime_is_named_with_those_there_are(artifact: Artifact) -> None:
    with pytest.raises(ValueError, match=r"'tpu'; there are auto, cpu"):
        runtimes.load(artifact, "tpu")


def test_the_reference_agrees_with_itself_row_by_row(artifact: Artifact) -> None:
    """top-k, targets, subset and entropy are views of the same whole rows."""
    runtime = runtimes.load(artifact, "chainer")
    state = runtime.advance(np.array([1, 2, 3]), runtime.zero_state(3))
    rows = runtime.log_probabilities(state[-1])
    np.testing.assert_allclose(np.exp(rows).sum(axis=1), 1, atol=1e-6)
    targets = np.array([4, 0, 2])
    projection = runtime.project(state[-1], top_k=5, targets=targets)
    np.testing.assert_allclose(
        np.take_along_axis(rows, projection.top_ids, axis=1), projection.top_log_probabilities, atol=1e-6
    )
    np.testing.assert_allclose(projection.target_log_probabilities, rows[np.arange(3), targets], atol=1e-6)
    np.testing.assert_array_equal(
        projection.target_ranks, [1 + (rows[i] > rows[i, target]).sum() for i, target in enumerate(targets)]
    )
    np.testing.assert_allclose(projection.entropies, -(np.exp(rows) * rows).sum(axis=1), atol=1e-6)
    subset = runtime.project_subset(state[-1], np.array([4, 1]), top_k=9)
    np.testing.assert_allclose(np.exp(subset.log_probabilities), np.exp(rows[:, [4, 1]]).sum(axis=1), atol=1e-6)
    assert subset.top_ids.shape == (3, 2)
