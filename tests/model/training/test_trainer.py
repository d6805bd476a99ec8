import errno
import io
import itertools
import json
import math
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from model.artifact import Artifact
from model.compat import chainer
from model.networks import build
from model.runtimes.reference import ReferenceRuntime
from model.training import extensions
from model.training.data import TrainingData, prepare
from model.training.folder import LOG, MODEL, SNAPSHOT
from model.training.processes import Processes
from model.training.recipe import Recipe, load
from model.training.schedule import learning_rate
from model.training.trainer import TrainingError, open_device, train
from model.training.updater import GradientClipping, TruncatedBPTTUpdater
from tests.model.training import process
from tests.model.training.process import Process
from tests.model.training.test_updater import each_network
from tests.model.training.texts import write_recipe, write_text

CPU = open_device("cpu")


class Trained:
    """A short training in a folder of its own."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.said = io.StringIO()
        self.console = Console(file=self.said, soft_wrap=True)
        self.text = write_text(folder / "text.txt")
        self.path = write_recipe(folder / "mine.toml", **({"epochs": 0.5, "validations": 1} | fields))
        self.recipe: Recipe = load(str(self.path))
        self.data: TrainingData = prepare(self.recipe, self.text, self.out, resume=False, console=self.console)

    def __call__(self, *, resume: bool = False, snapshot_seconds: float = 1e9) -> Artifact | None:
        return train(
            self.recipe,
            self.data,
            self.out,
            device=CPU,
            resume=resume,
            console=self.console,
            snapshot_seconds=snapshot_seconds,
        )

    @property
    def weights(self) -> dict[str, Any]:
        """The network's float32 weights in the snapshot."""
        prefix = "updater/model:main/"
        with np.load(self.out / SNAPSHOT) as npz:
            return {name.removeprefix(prefix): npz[name] for name in npz.files if name.startswith(prefix)}

    @property
    def log(self) -> list[dict[str, Any]]:
        return json.loads((self.out / LOG).read_text())  # type: ignore[no-any-return]

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(self.out.rglob("*")) if path.is_file()}


@each_network
def test_every_network_trains_and_what_is_written_predicts_as_it_did(network: dict[str, Any], tmp_path: Path) -> None:
    trained = Trained(tmp_path, network=network, epochs=2, learning_rate=0.05, batch_size=12, window=6)
    artifact = trained()
    assert artifact is not None
    losses = [entry["main/candidate_loss"] for entry in trained.log if "main/candidate_loss" in entry]
    assert losses[-1] < losses[0]
    assert trained.log[-1]["validation/loss"] < math.log(len(trained.data.tokenizer))

    # On the disk each weight is the float16 next to it.
    assert Artifact.load(trained.out / MODEL).id == artifact.id
    assert artifact.weights.keys() == trained.weights.keys()
    for name, weight in trained.weights.items():
        np.testing.assert_array_equal(artifact.weights[name], weight.astype(np.float16).astype(np.float32))

    in_memory = build(artifact.network)
    for path, parameter in in_memory.namedparams():
        parameter.array[...] = trained.weights[path.lstrip("/")]
    runtime = ReferenceRuntime(artifact)
    state = runtime.zero_state(1)
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        for word in trained.data.valid[:20]:
            state = runtime.advance(np.array([word], np.int64), state)
            hidden = in_memory(np.array([[word]], np.int32))
            expected = chainer.functions.log_softmax(in_memory.logits(hidden[0])).array
            np.testing.assert_allclose(runtime.log_probabilities(state[-1]), expected, atol=2e-2)


def test_dropout_and_candidates_are_of_the_training_alone(tmp_path: Path) -> None:
    artifact = Trained(tmp_path)()
    assert artifact is not None
    assert set(artifact.network) == {"kind", "vocabulary_size", "embedding_size", "hidden_sizes"}
    assert artifact.training["recipe"]["training"]["dropout"] == 0.3
    assert artifact.start == "<eos>"


def test_the_log_has_loss_gradient_and_validation(tmp_path: Path) -> None:
    trained = Trained(tmp_path, epochs=1, validations=3)
    trained()
    assert [entry["iteration"] for entry in trained.log] == list(range(1, 13))
    assert all(entry["main/gradient_norm"] > 0 for entry in trained.log)
    for name, iterations in (("main/candidate_loss", range(1, 8)), ("main/loss", range(8, 13))):
        assert [entry["iteration"] for entry in trained.log if entry.get(name, 0) > 0] == list(iterations)
    validated = [entry for entry in trained.log if "validation/loss" in entry]
    assert [entry["iteration"] for entry in validated] == [4, 8, 12]
    for entry in validated:
        assert entry["validation/perplexity"] == pytest.approx(math.exp(entry["validation/loss"]))
        assert 0 <= entry["validation/accuracy"] <= 1
    assert trained.log[-1]["epoch_detail"] == 1
    artifact = Artifact.load(trained.out / MODEL)
    assert artifact.training["validation"]["validation/loss"] == validated[-1]["validation/loss"]
    assert f"perplexity {validated[-1]['validation/perplexity']:.2f}" in artifact.card


@pytest.mark.parametrize("fields", [{"optimizer": "sgd", "learning_rate": 2.0}, {"weight_decay": 0.001}])
def test_other_ways_of_descent(fields: dict[str, Any], tmp_path: Path) -> None:
    trained = Trained(tmp_path, epochs=1, dropout=0.0, candidates=0, **fields)
    assert trained() is not None
    assert trained.log[-1]["main/loss"] < trained.log[0]["main/loss"]


def test_the_learning_rate_of_each_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    clip = GradientClipping.__call__

    def noting(self: GradientClipping, optimizer: Any) -> None:
        rates.append(optimizer.alpha)
        clip(self, optimizer)

    monkeypatch.setattr(GradientClipping, "__call__", noting)
    Trained(tmp_path, epochs=1, warmup=0.25, learning_rate=0.1)()
    assert rates == pytest.approx(
        [learning_rate(step / 12, peak=0.1, warmup=0.25, decay=True) for step in range(1, 13)]
    )
    assert rates[:3] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])
    assert all(before > after for before, after in itertools.pairwise(rates[2:]))
    assert rates[-1] == pytest.approx(0)


def test_the_schedule_without_warmup_and_decay() -> None:
    assert learning_rate(0.0, peak=2, warmup=0, decay=True) == 2
    assert learning_rate(0.5, peak=2, warmup=0, decay=True) == pytest.approx(1)
    assert learning_rate(1.5, peak=2, warmup=0, decay=True) == pytest.approx(0)
    assert [learning_rate(at, peak=2, warmup=0.5, decay=False) for at in (0, 0.25, 0.5, 1)] == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda:7", r"device cuda:7 does not answer: .+\. Choose auto or cpu, or see that the driver runs"),
        ("gpu", r"no device 'gpu': choose auto, cpu, or cuda:0, cuda:1"),
        ("cuda", r"no device 'cuda'"),
        ("cuda:-1", r"no device 'cuda:-1'"),
        ("cuda:²", r"no device 'cuda:²'"),
    ],
)
def test_a_device_that_is_not_there(name: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        open_device(name)


def test_a_device_that_answers_and_cannot_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.training.trainer.cuda_device_count", lambda: 1)
    with pytest.raises(TrainingError, match=r"device cuda:0 answers, and cannot compute: .+ Choose --device cpu"):
        open_device("cuda:0")


def test_a_device_that_fails_is_told_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class CUDARuntimeError(RuntimeError):
        __module__ = "cupy_backends.cuda.api.runtime"

    trained = Trained(tmp_path, epochs=1)
    update = TruncatedBPTTUpdater.update_core

    def failing(self: TruncatedBPTTUpdater) -> None:
        if self.iteration == 5:
            raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
        update(self)

    monkeypatch.setattr(TruncatedBPTTUpdater, "update_core", failing)
    with pytest.raises(TrainingError, match=r"the device failed: cudaErrorIllegalAddress: .*--resume goes on from"):
        trained()


def test_a_batch_that_cannot_be_divided_among_the_processes(tmp_path: Path) -> None:
    class Three(Processes):
        size = 3

    trained = Trained(tmp_path)
    with pytest.raises(TrainingError, match=r"^a batch of 4 streams cannot be divided evenly among 3 processes: "):
        train(
            trained.recipe,
            trained.data,
            trained.out,
            device=CPU,
            resume=False,
            console=trained.console,
            processes=Three(),
        )


# --- What goes wrong on the way ---------------------------------------------------------------------------------------


def test_a_diverged_training_leaves_the_snapshot_from_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No warning reaches the user (here one would be an error), and no NaN the disk."""
    trained = Trained(tmp_path, learning_rate=1e30, epochs=2)
    with pytest.raises(TrainingError) as caught:
        trained(snapshot_seconds=0)
    assert str(caught.value).startswith("the training diverged: ")
    assert "Start again in another --out, with a lower learning_rate or a smaller gradient_clipping" in str(
        caught.value
    )
    assert str(caught.value).endswith(f"{trained.out / SNAPSHOT} is from before and whole")
    assert "\n" not in str(caught.value)
    assert all(np.isfinite(weight).all() for weight in trained.weights.values())
    assert not (trained.out / MODEL).exists()
    with pytest.raises(TrainingError, match="the training diverged"):  # it loads
        trained(resume=True)


def test_before_the_first_snapshot_there_is_none_to_speak_of(tmp_path: Path) -> None:
    trained = Trained(tmp_path, learning_rate=1e30, epochs=2)
    with pytest.raises(TrainingError, match=r"gradient_clipping in the recipe$"):
        trained()
    assert not (trained.out / SNAPSHOT).exists()


def test_a_validation_that_cannot_be_told_is_divergence_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "validate", lambda *_, **__: (math.nan, 0.0))
    with pytest.raises(TrainingError, match="the training diverged: the validation loss is nan"):
        Trained(tmp_path)()


def test_a_perplexity_beyond_all_numbers_is_left_out_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extensions, "validate", lambda *_, **__: (800.0, 0.0))
    artifact = Trained(tmp_path)()
    assert artifact is not None
    assert artifact.training["validation"]["validation/loss"] == 800
    assert "validation/perplexity" not in artifact.training["validation"]
    assert "not measured" in artifact.card


#: What there is no room for, and the size up to which there is: no other file that a training writes so early is larger
#: than the one meant.
FULL = {"snapshot": 60_000, "plots": 15_000, "log": 500}
LARGE = {"kind": "lstm_stack", "embedding_size": 40, "hidden_sizes": [40]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    trained = Trained(tmp_path_factory.mktemp("whole"), network=LARGE, epochs=1)
    assert trained() is not None
    return trained


@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_keeps_all_that_was_there(
    what: str, tmp_path: Path, whole: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Trained(tmp_path, network=LARGE, epochs=1)
    with monkeypatch.context() as patch:
        process.raising(patch.setattr, 5, signal.SIGINT)
        assert trained() is None
    before = trained.files()
    full = Process(
        ["train", "--recipe", trained.path, "--out", trained.out, "--resume", "--device", "cpu"],
        tmp_path / "output",
        partial(process.snapshots_every, 0.0 if what == "snapshot" else 1e9),
        partial(process.limit_file_size, FULL[what]),
    )
    assert full.status() == 2
    assert full.output.splitlines()[-1] == (
        f"nextword train: cannot write to {trained.out}: File too large; what was there is whole"
    )
    after = trained.files()
    assert after.keys() == before.keys()
    assert {Path(name).name for name in before if before[name] != after[name]} <= ({LOG} if what != "log" else set())
    assert trained(resume=True) is not None
    for name, weight in whole.weights.items():
        np.testing.assert_array_equal(trained.weights[name], weight)


def test_no_room_for_the_model_keeps_the_snapshot_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    trained = Trained(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("model.artifact._write_file", full)
        with pytest.raises(TrainingError, match=r"cannot write .*model: No space left on device"):
            trained()
    assert not list(trained.out.glob(".*"))
    assert trained(resume=True) is not None


def test_the_handlers_of_signals_are_as_they_were(tmp_path: Path) -> None:
    before: list[Callable[..., Any] | int | None] = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    Trained(tmp_path)()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
