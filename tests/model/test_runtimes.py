from __future__ import annotations

import logging

import numpy as np
import pytest

from model import runtimes
from model.artifact import Artifact
from model.shapes import parameter_shapes
from model.tokenizer import Tokenizer

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


def test_auto_is_the_cpu_where_no_gpu_answers(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "cuda_device_count", lambda: 0)
    assert runtimes.load(artifact).name == "cpu"


def test_auto_is_chainer_where_a_gpu_answers(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    # The choice only: where the network is put, the reference asks for itself.
    monkeypatch.setattr(runtimes, "cuda_device_count", lambda: 1)
    assert runtimes.load(artifact).name == "chainer"


def test_auto_falls_back_and_says_so(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtimes, "cuda_device_count", lambda: 1)
    monkeypatch.setitem(__import__("sys").modules, "model.runtimes.reference", None)  # as where Chainer is missing
    with caplog.at_level(logging.WARNING):
        assert runtimes.load(artifact).name == "cpu"
    assert "a GPU is there, but the model runs on the CPU" in caplog.text
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
