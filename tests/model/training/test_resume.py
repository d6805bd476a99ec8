"""A training that is stopped, however roughly, and resumed ends with the weights of one that was not."""

import io
import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from model.artifact import Artifact
from model.training import recipe as recipes
from model.training.data import prepare
from model.training.folder import MODEL, SNAPSHOT
from model.training.trainer import TrainingError, open_device, train
from tests.model.training import process
from tests.model.training.process import Process
from tests.model.training.texts import AWD, write_recipe, write_text


class Training:
    """A folder to train in, with a recipe and a text."""

    def __init__(self, folder: Path) -> None:
        self.recipe = write_recipe(folder / "small.toml")
        self.text = write_text(folder / "text.txt")
        self.folder = folder
        self.out = folder / "out"
        self.said = ""

    def arguments(self, *, resume: bool) -> list[str]:
        start = ["train", "--recipe", str(self.recipe), "--data", str(self.text), "--out", str(self.out)]
        return [*start, "--device", "cpu"] + ["--resume"] * resume

    def process(self, *setups: process.Setup, resume: bool = False) -> Process:
        return Process(self.arguments(resume=resume), self.folder / "output", *setups)

    def run(self, *, resume: bool = False, snapshot_seconds: float = 1e9) -> Artifact | None:
        """In this process; what it says is in `said`."""
        console = Console(file=io.StringIO(), soft_wrap=True)
        try:
            recipe = recipes.load(str(self.recipe))
            data = prepare(recipe, self.text, self.out, resume=resume, console=console)
            device = open_device("cpu")
            return train(
                recipe, data, self.out, device=device, resume=resume, console=console, snapshot_seconds=snapshot_seconds
            )
        finally:
            assert isinstance(console.file, io.StringIO)
            self.said = console.file.getvalue()

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.out)) for path in self.out.rglob("*"))


def iterations(out: Path) -> int:
    with np.load(out / SNAPSHOT, allow_pickle=False) as npz:
        return int(npz["updater/iteration"])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Training:
    training = Training(tmp_path_factory.mktemp("uninterrupted"))
    assert training.run() is not None
    return training


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path)


def assert_same_end(training: Training, uninterrupted: Training) -> None:
    """Bit-equal: weights as they were trained and as they are kept, optimiser, state, random draws to come."""
    weights = Path(MODEL) / "model.safetensors"
    assert (training.out / weights).read_bytes() == (uninterrupted.out / weights).read_bytes()
    with np.load(training.out / SNAPSHOT) as ours, np.load(uninterrupted.out / SNAPSHOT) as theirs:
        assert ours.files == theirs.files
        for name in ours.files:
            if name.startswith("updater/"):
                np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert training.files() == uninterrupted.files()


def test_the_recipe_is_a_hard_one(uninterrupted: Training) -> None:
    recipe = recipes.load(str(uninterrupted.recipe))
    epoch = 12  # iterations; the tests below stop at an epoch's end, in sampled softmax and in full
    assert iterations(uninterrupted.out) == round(recipe.training.epochs * epoch) == 30
    assert recipe.training.dropout > 0
    assert recipe.training.full_softmax_from * 30 == pytest.approx(18)


def test_killed_again_and_again(training: Training, uninterrupted: Training) -> None:
    often = partial(process.snapshots_every, 0.0)
    never = partial(process.snapshots_every, 1e9)
    kills: list[tuple[int | None, list[process.Setup]]] = [
        # The last snapshot there is afterwards, and the kill.
        (None, [never, partial(process.kill_in_update, 3)]),
        (5, [often, partial(process.kill_in_update, 5)]),
        (9, [often, partial(process.kill_before_replacing, SNAPSHOT, 5)]),
        (12, [often, partial(process.kill_after_snapshot, 12)]),  # at the end of an epoch
        (14, [often, partial(process.kill_before_replacing, "log", 3)]),
        (29, [often, partial(process.kill_before_replacing, "perplexity.png", 2)]),
        (30, [often, process.kill_before_model]),
    ]
    for kept, setups in kills:
        killed = training.process(*setups, resume=training.out.exists())
        assert killed.status() == -signal.SIGKILL, killed.output
        assert (training.out / SNAPSHOT).exists() == (kept is not None)
        if kept is not None:
            assert iterations(training.out) == kept
    assert training.run(resume=True) is not None
    assert_same_end(training, uninterrupted)


def test_killed_from_outside_wherever_it_is(training: Training, uninterrupted: Training) -> None:
    running = training.process(partial(process.snapshots_every, 0.0), process.tell_iterations)
    while running.told() < 8:
        pass
    running.send(signal.SIGKILL)
    assert running.status() == -signal.SIGKILL
    assert training.run(resume=True) is not None
    assert_same_end(training, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_update_with_a_snapshot(
    number: signal.Signals, training: Training, uninterrupted: Training
) -> None:
    running = training.process(process.tell_iterations)
    while running.told() < 8:
        pass
    running.send(number)
    assert running.status() == 130
    stopped_at = iterations(training.out)
    assert stopped_at >= 7
    assert stopped_at < 30
    assert running.output.splitlines()[-1] == (
        f"interrupted at iteration {stopped_at} of 30; --resume goes on from there"
    )
    assert not (training.out / MODEL).exists()
    assert training.run(resume=True) is not None
    assert f"going on at iteration {stopped_at} of 30\n" in training.said
    assert_same_end(training, uninterrupted)


def test_a_second_signal_ends_it_at_once_and_the_snapshot_before_is_whole(
    training: Training, uninterrupted: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        process.raising(patch.setattr, 6, signal.SIGINT, signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            training.run(snapshot_seconds=0.0)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert iterations(training.out) == 6
    assert training.run(resume=True) is not None
    assert_same_end(training, uninterrupted)


def test_a_signal_during_the_last_update_is_too_late(
    training: Training, uninterrupted: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.raising(monkeypatch.setattr, 29, signal.SIGINT)
    assert training.run() is not None
    assert_same_end(training, uninterrupted)


def test_resumed_after_the_end_it_is_at_the_end(training: Training, uninterrupted: Training) -> None:
    first = training.run()
    assert first is not None
    measured = Artifact.record(training.out / MODEL, {"perplexity": 12.5}, of=first.id)
    again = training.run(resume=True)
    assert again is not None
    assert (again.id, again.measured) == (measured.id, {"perplexity": 12.5})
    assert_same_end(training, uninterrupted)


def test_resumed_after_the_end_it_writes_a_model_that_is_gone_or_damaged(training: Training) -> None:
    first = training.run()
    assert first is not None
    (training.out / MODEL / "model.safetensors").write_bytes(b"")
    again = training.run(resume=True)
    assert again is not None
    assert again.id == first.id


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_networks_of_chainers_own_links_resume_too(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L.LSTM with its dropout in every step, GRU with the plain functions."""
    ends = []
    short: dict[str, Any] = {"epochs": 0.3, "batch_size": 10, "window": 4, "validations": 1, "validation_words": 20}
    for interrupt in (False, True):
        (tmp_path / str(interrupt)).mkdir()
        training = Training(tmp_path / str(interrupt))
        if kind == "lstm":
            write_recipe(training.recipe, network={"kind": "lstm", "hidden_size": 8}, dropout=0.3, **short)
        else:
            network = {"kind": "gru", "embedding_size": 8, "hidden_sizes": [8, 6]}
            write_recipe(training.recipe, network=network, **short)
        if interrupt:
            with monkeypatch.context() as patch:
                process.raising(patch.setattr, 2, signal.SIGTERM)
                assert training.run() is None
        artifact = training.run(resume=interrupt)
        assert artifact is not None
        ends.append(artifact.weights)
    for name, weight in ends[0].items():
        np.testing.assert_array_equal(ends[1][name], weight)


AWD_NT = AWD | {
    "optimizer": "sgd",
    "schedule": "cosine",
    "decay": False,
    "learning_rate": 5.0,
    "average_patience": 1,
    "validations": 5,
}


@pytest.mark.parametrize("recipe", [AWD, AWD_NT], ids=["one cycle", "NT-ASGD"])
def test_awd_lstm_resumes_with_its_windows_its_schedule_and_its_mean(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = []
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        training = Training(tmp_path / name)
        write_recipe(training.recipe, **recipe)
        trainings.append(training)
    whole, stopped = trainings
    assert whole.run() is not None
    total = iterations(whole.out)
    for stop in (3, total - 2):  # before there is a mean, and with it
        with monkeypatch.context() as patch:
            process.raising(patch.setattr, stop, signal.SIGTERM)
            assert stopped.run(resume=stopped.out.exists()) is None
    assert stopped.run(resume=True) is not None
    assert_same_end(stopped, whole)
    with np.load(stopped.out / SNAPSHOT) as ours, np.load(whole.out / SNAPSHOT) as theirs:
        names = [name for name in ours.files if name.startswith("extensions/averaging/")]
        assert ours["extensions/averaging/count"] > 2
        assert sum("/mean/" in name for name in names) == 8
        for name in names:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
        # What is kept is the mean, and not the last weights.
        kept = Artifact.load(stopped.out / MODEL).weights["embed/W"]
        mean, last = ours["extensions/averaging/mean/embed/W"], ours["updater/model:main/embed/W"]
        np.testing.assert_array_equal(kept, mean.astype(np.float16).astype(np.float32))
        assert not np.array_equal(mean, last)


def test_the_log_goes_on_where_it_stopped(
    training: Training, uninterrupted: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        process.raising(patch.setattr, 12, signal.SIGTERM)
        assert training.run() is None
    training.run(resume=True)
    ours, theirs = (json.loads((t.out / "log").read_text()) for t in (training, uninterrupted))
    assert [entry["iteration"] for entry in ours] == list(range(1, 31))
    for entry, other in zip(ours, theirs, strict=True):
        assert entry.keys() == other.keys()
        for name in entry.keys() - {"elapsed_time"}:
            assert entry[name] == pytest.approx(other[name], rel=1e-6), name
    assert [entry["elapsed_time"] for entry in ours] == sorted(entry["elapsed_time"] for entry in ours)


def test_a_snapshot_of_another_network_or_a_damaged_one_is_told_and_left_alone(training: Training) -> None:
    training.run()
    path = training.out / SNAPSHOT
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match=r"snapshot\.npz: damaged.*; put back a copy of it, or remove it to start"):
        training.run(resume=True)
    assert path.read_bytes() == whole[: len(whole) // 2]
    with np.load(io.BytesIO(whole)) as npz:
        arrays = dict(npz)
    arrays["updater/model:main/embed/W"] = np.zeros((3, 3), np.float32)
    np.savez(path, **arrays)
    with pytest.raises(TrainingError, match=r"snapshot\.npz: not a snapshot of this training: "):
        training.run(resume=True)
