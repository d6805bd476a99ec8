from pathlib import Path

import pytest

from model.training.folder import FolderError, check_free, claimed, replacing


def test_a_file_is_replaced_when_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_claimed_by_one_and_vanishes_if_it_stays_empty(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with claimed(out):
        with pytest.raises(FolderError, match="another training is running in"), claimed(out):
            pass
        assert out.is_dir()
    assert list(tmp_path.iterdir()) == []
    with claimed(out):
        (out / "model").touch()
    with claimed(out):
        pass
    assert list(out.iterdir()) == [out / "model"]
    with (
        pytest.raises(FolderError, match=r"cannot write to .*model: (File exists|Not a directory)"),
        claimed(out / "model"),
    ):
        pass


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_goes_wrong_leaves_the_old_file_and_no_other(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as file:
            file.write(b"ne")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_or_empty_folder_is_free_and_so_is_one_with_other_things(tmp_path: Path) -> None:
    check_free(tmp_path / "new")
    check_free(tmp_path)
    (tmp_path / "lost+found").mkdir()
    check_free(tmp_path)


def test_a_training_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").touch()
    check_free(tmp_path)  # a preparation that was cut off
    (tmp_path / "data.npz").touch()
    with pytest.raises(FolderError, match=r"holds a training already: go on with --resume, or choose another --out"):
        check_free(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "model", "log", "loss.png", "snapshot.npz", "held-out"])
def test_nor_is_anything_else(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(FolderError, match=f"holds {name}, which a training would overwrite: choose another --out"):
        check_free(tmp_path)
