import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.compat import chainer
from model.networks import build
from model.training import snapshot
from model.training.batches import ParallelSequentialIterator
from model.training.processes import Processes
from model.training.snapshot import SnapshotError
from model.training.updater import DivergedError, GradientClipping, TruncatedBPTTUpdater


def trainer_of(seed: int, hidden_size: int = 5) -> Any:
    np.random.seed(seed)
    network = build({"kind": "simple_rnn", "vocabulary_size": 7, "embedding_size": 3, "hidden_size": hidden_size})
    optimizer = chainer.optimizers.Adam().setup(network)
    clipping = GradientClipping(1.0)
    optimizer.add_hook(clipping)
    batches = ParallelSequentialIterator(np.arange(50, dtype=np.int32) % 7, 3, 4)
    updater = TruncatedBPTTUpdater(batches, optimizer, clipping, seed=seed, device=chainer.get_device("@numpy"))
    trainer = chainer.training.Trainer(updater, (3, "iteration"))
    trainer.extend(chainer.training.extensions.LogReport(trigger=(2, "iteration"), log_name=None))
    return trainer


def contents(trainer: Any) -> dict[str, Any]:
    updater, log = map(chainer.serializers.npz.serialize, (trainer.updater, trainer.get_extension("LogReport")))
    return {f"updater/{name}": np.array(array) for name, array in updater.items()} | {
        f"extensions/LogReport/{name}": np.array(array) for name, array in log.items()
    }


@pytest.fixture
def trained(tmp_path: Path) -> Any:
    trainer = trainer_of(0)
    trainer.out = str(tmp_path / "out")
    trainer.run()
    return trainer


@pytest.fixture
def path(trained: Any, tmp_path: Path) -> Path:
    snapshot.save(tmp_path / "snapshot.npz", trained, Processes())
    return tmp_path / "snapshot.npz"


def test_what_is_saved_is_restored(trained: Any, path: Path) -> None:
    restored = trainer_of(1)
    snapshot.load(path, restored, Processes())
    saved = contents(trained)
    assert {"updater/iteration", "updater/state/0", "updater/model:main/embed/W"} < saved.keys()
    for name, array in contents(restored).items():
        np.testing.assert_array_equal(array, saved[name], err_msg=name)


def test_only_the_snapshot_is_left_beside_it(trained: Any, path: Path) -> None:
    snapshot.save(path, trained, Processes())
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["out", "snapshot.npz"]


def test_every_cut_and_every_byte_changed_is_noticed_or_harmless(trained: Any, path: Path) -> None:
    whole, saved = path.read_bytes(), contents(trained)
    random = np.random.default_rng(8)
    cuts = [whole[: int(size)] for size in random.integers(0, len(whole), 30)]
    changes = []
    for place in random.integers(0, len(whole), 120):
        changed = bytearray(whole)
        changed[place] ^= int(random.integers(1, 256))
        changes.append(bytes(changed))
    told = []
    for content in cuts + changes:
        path.write_bytes(content)
        restored = trainer_of(1)
        try:
            snapshot.load(path, restored, Processes())
        except SnapshotError as error:
            told.append(str(error))
        else:
            for name, array in contents(restored).items():
                np.testing.assert_array_equal(array, saved[name], err_msg=name)
    assert len(told) > len(cuts)
    assert all(message.startswith(f"{path}: ") and "\n" not in message for message in told)


class Explosive:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("form", ["in the archive", "instead of it", "an npy file"])
def test_nothing_is_ever_unpickled(form: str, trained: Any, path: Path, tmp_path: Path) -> None:
    explosive = Explosive(tmp_path / "exploded")
    if form == "in the archive":
        arrays = contents(trained) | {"updater/iteration": np.array([explosive], dtype=object)}
        np.savez(path, **arrays)
    elif form == "instead of it":
        path.write_bytes(pickle.dumps(explosive))
    else:
        file = io.BytesIO()
        np.save(file, np.array([explosive], dtype=object))
        path.write_bytes(file.getvalue())
    with pytest.raises(SnapshotError, match=r"snapshot\.npz: damaged"):
        snapshot.load(path, trainer_of(1), Processes())
    assert not explosive.path.exists()


def test_one_of_another_network_is_refused(path: Path) -> None:
    with pytest.raises(SnapshotError, match=r"snapshot\.npz: not a snapshot of this training: .*broadcast"):
        snapshot.load(path, trainer_of(0, hidden_size=6), Processes())


def test_an_npz_of_something_else_is_refused(path: Path) -> None:
    np.savez(path, a=np.zeros(3))
    with pytest.raises(SnapshotError, match=r"snapshot\.npz: not a snapshot of this training: .*updater"):
        snapshot.load(path, trainer_of(0), Processes())


def test_a_missing_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match=r"nothing\.npz: no such file"):
        snapshot.load(tmp_path / "nothing.npz", trainer_of(0), Processes())


@pytest.mark.parametrize("where", ["weights", "optimiser"])
def test_what_is_not_finite_never_replaces_what_is(where: str, trained: Any, path: Path) -> None:
    before = path.read_bytes()
    parameter = trained.updater.get_optimizer("main").target.embed.W
    if where == "weights":
        parameter.array[1, 1] = np.nan
    else:
        parameter.update_rule.state["v"][1, 1] = np.inf
    with pytest.raises(DivergedError, match=r"embed/W.* is not finite at iteration 3"):
        snapshot.save(path, trained, Processes())
    assert path.read_bytes() == before
