"""The checkpoints here are made by Chainer itself, from links as its examples define them."""

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import networks
from model.artifact import Artifact
from model.checkpoint import CheckpointError, read_checkpoint
from model.compat import chainer
from model.importing import import_checkpoint, read_vocabulary
from model.runtimes.reference import ReferenceRuntime

F, L = chainer.functions, chainer.links
WORDS = ["the", "<unk>", "N", "<eos>", "cat", "sat", "on", "mat", "."]
V = len(WORDS)
TEXT = [4, 5, 6, 0, 7, 3, 1, 2]


class PtbLanguageModel(chainer.Chain):  # as in Chainer's examples/ptb
    def __init__(self, n_vocab: int, n_units: int) -> None:
        super().__init__()
        with self.init_scope():
            self.embed = L.EmbedID(n_vocab, n_units)
            self.l1 = L.LSTM(n_units, n_units)
            self.l2 = L.LSTM(n_units, n_units)
            self.l3 = L.Linear(n_units, n_vocab)
        for param in self.params():
            param.array[...] = np.random.uniform(-0.5, 0.5, param.shape)

    def forward(self, x: Any) -> Any:
        return self.l3(self.l2(self.l1(self.embed(x))))


class TutorialRNN(chainer.Chain):
    def __init__(self, n_vocab: int, n_embed: int, n_hidden: int) -> None:
        super().__init__()
        with self.init_scope():
            self.embed = L.EmbedID(n_vocab, n_embed)
            self.l1 = L.Linear(n_embed, n_hidden)
            self.r1 = L.Linear(n_hidden, n_hidden)
            self.l2 = L.Linear(n_hidden, n_vocab)
        self.h: Any = np.zeros((1, n_hidden), np.float32)

    def forward(self, x: Any) -> Any:
        self.h = F.tanh(self.l1(self.embed(x)) + self.r1(self.h))
        return self.l2(self.h)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    np.random.seed(1)


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return path


def log_probabilities_of_link(link: Any, ids: list[int]) -> np.ndarray:
    """(T, V): after each of the words, what the original link says comes next."""
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        rows = [F.log_softmax(link(np.array([id], np.int32))).array[0] for id in ids]
    return np.stack(rows)


def log_probabilities_of_model(artifact: Artifact, ids: list[int]) -> np.ndarray:
    runtime = ReferenceRuntime(artifact)
    state = runtime.zero_state(1)
    rows = []
    for id in ids:
        state = runtime.advance(np.array([id]), state)
        rows.append(runtime.log_probabilities(state[-1])[0])
    return np.stack(rows)


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "in a classifier"])
@pytest.mark.parametrize(
    ("link", "network"),
    [
        (lambda: PtbLanguageModel(V, 6), {"kind": "lstm", "vocabulary_size": V, "hidden_size": 6}),
        (
            lambda: TutorialRNN(V, 4, 6),
            {"kind": "simple_rnn", "vocabulary_size": V, "embedding_size": 4, "hidden_size": 6},
        ),
    ],
    ids=["ptb", "tutorial"],
)
def test_a_checkpoint_predicts_as_the_link_that_was_saved(
    tmp_path: Path, vocabulary: Path, link: Callable[[], Any], network: dict[str, Any], wrapped: bool
) -> None:
    original = link()
    chainer.serializers.save_npz(tmp_path / "model.npz", L.Classifier(original) if wrapped else original)
    artifact = import_checkpoint(tmp_path / "model.npz", vocabulary, tmp_path / "out", name="ptb")
    assert artifact.network == network
    assert artifact.tokenizer.vocabulary == tuple(WORDS)
    assert artifact.tokenizer.policy == "split"
    assert artifact.start == "<eos>"
    assert artifact.id == Artifact.load(tmp_path / "out").id
    assert artifact.training["prefix"] == ("predictor/" if wrapped else "")
    np.testing.assert_allclose(
        log_probabilities_of_model(artifact, TEXT), log_probabilities_of_link(original, TEXT), atol=1e-5
    )


def trainer_snapshot(path: Path, *, with_copy: bool = False) -> Any:
    original = PtbLanguageModel(V, 4)
    classifier = L.Classifier(original)
    if with_copy:
        with classifier.init_scope():
            classifier.average = PtbLanguageModel(V, 4)
    optimizer = chainer.optimizers.Adam()
    optimizer.setup(classifier)
    iterator = chainer.iterators.SerialIterator([(np.int32(1), np.int32(2))] * 4, 2)
    trainer = chainer.training.Trainer(
        chainer.training.StandardUpdater(iterator, optimizer), (1, "iteration"), out=str(path.parent)
    )
    trainer.extend(chainer.training.extensions.LogReport(trigger=(1, "iteration"), filename=None))
    trainer.run()
    chainer.serializers.save_npz(str(path), trainer)
    original.l1.reset_state()
    original.l2.reset_state()
    return original


def test_a_trainers_snapshot_holds_much_else(tmp_path: Path, vocabulary: Path) -> None:
    original = trainer_snapshot(tmp_path / "snapshot_iter_1")
    with np.load(tmp_path / "snapshot_iter_1") as archive:
        assert "updater/optimizer:main/t" in archive.files
    artifact = import_checkpoint(tmp_path / "snapshot_iter_1", vocabulary, tmp_path / "out", name="snapshot")
    assert artifact.training["prefix"] == "updater/model:main/predictor/"
    np.testing.assert_allclose(
        log_probabilities_of_model(artifact, TEXT), log_probabilities_of_link(original, TEXT), atol=1e-5
    )


def test_a_file_with_several_networks_is_taken_by_its_usual_prefix_or_the_one_given(tmp_path: Path) -> None:
    trainer_snapshot(tmp_path / "snapshot", with_copy=True)
    usual = read_checkpoint(tmp_path / "snapshot")
    assert usual.prefix == "updater/model:main/predictor/"
    given = read_checkpoint(tmp_path / "snapshot", prefix="updater/model:main/average")
    assert given.prefix == "updater/model:main/average/"
    assert not np.array_equal(usual.weights["embed/W"], given.weights["embed/W"])
    with pytest.raises(CheckpointError, match="has no other/embed/W"):
        read_checkpoint(tmp_path / "snapshot", prefix="other/")


@pytest.mark.parametrize(
    "network",
    [
        {"kind": "simple_rnn", "vocabulary_size": V, "embedding_size": 2, "hidden_size": 3},
        {"kind": "deep_rnn", "vocabulary_size": V, "embedding_size": 2, "hidden_sizes": [3, 5]},
        {"kind": "concat_rnn", "vocabulary_size": V, "embedding_size": 2, "hidden_size": 3, "output_size": 4},
        {"kind": "gru", "vocabulary_size": V, "embedding_size": 2, "hidden_sizes": [3, 5]},
        {"kind": "lstm", "vocabulary_size": V, "hidden_size": 3},
        {"kind": "lstm_stack", "vocabulary_size": V, "embedding_size": 2, "hidden_sizes": [3, 5, 2]},
    ],
    ids=lambda network: str(network["kind"]),
)
def test_our_own_networks_come_in(tmp_path: Path, network: dict[str, Any]) -> None:
    link = networks.build(network)
    chainer.serializers.save_npz(tmp_path / "model.npz", link)
    found = read_checkpoint(tmp_path / "model.npz", words=V)
    assert found.network == network
    assert set(found.weights) == {path.lstrip("/") for path, _ in link.namedparams()}
    for path, parameter in link.namedparams():
        np.testing.assert_array_equal(found.weights[path.lstrip("/")], parameter.array)


def arrays(n_units: int = 3) -> dict[str, Any]:
    link = PtbLanguageModel(V, n_units)
    return {path.lstrip("/"): parameter.array for path, parameter in link.namedparams()}


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, **options)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


Arrays = dict[str, Any]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.pop("l1/lateral/W"), "lacks 'l1/lateral/W'; a network of kind lstm has embed/W, l1/upward/W"),
        (lambda a: a.pop("embed/W"), "no array is named embed/W"),
        (lambda a: a.update({"l4/W": np.zeros(2, np.float32)}), "has 'l4/W' beside what a network of kind lstm"),
        (lambda a: a.update({"l1/upward/W": np.zeros((12, 4), np.float32)}), "l1/upward/W has shape (12, 4)"),
        (lambda a: a.update({"l3/W": np.zeros((V, 4), np.float32)}), "l3/W has shape (9, 4); a network of kind lstm"),
        (lambda a: a.update({"embed/W": np.zeros(V, np.float32)}), "embed/W has shape (9,); in lstm it is a matrix"),
        (lambda a: a.update({"embed/W": np.float32(1)}), "embed/W has shape ()"),
        (lambda a: a.update({"embed/W": np.zeros((0, 3), np.float32)}), "vocabulary_size is a number from 1"),
        (lambda a: a.update({"l3/b": np.zeros(V, np.int64)}), "l3/b is <i8; weights are float16, float32 or float64"),
        (lambda a: a.update({"l3/b": np.zeros(V, np.complex64)}), "l3/b is <c8"),
        (lambda a: a.update({"l3/b": np.full(V, "x")}), "l3/b is <U1"),
        (lambda a: a.update({"l3/b": np.full(V, None)}), "l3/b is pickled (or was never initialised)"),
        (lambda a: a.update({"l3/b": np.full(V, np.nan)}), "l3/b holds 9 values that are not finite"),
        (lambda a: a.update({"l3/b": np.full(V, 1e300)}), "l3/b holds 9 values that are not finite in float32"),
        (lambda a: a.update({"l3/b": np.zeros(V, [("x", "f4")])}), "l3/b is [('x', '<f4')]"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, change: Callable[[Arrays], object], said: str) -> None:
    content = arrays()
    change(content)
    np.savez(tmp_path / "model.npz", **content)
    assert said in refusal(tmp_path / "model.npz", words=V)


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_floats_become_float32(tmp_path: Path, dtype: str, order: Any) -> None:
    content = arrays()
    np.savez_compressed(
        tmp_path / "model.npz", **{name: array.astype(dtype, order=order) for name, array in content.items()}
    )
    weights = read_checkpoint(tmp_path / "model.npz").weights
    for name, array in content.items():
        assert weights[name].dtype == np.float32
        np.testing.assert_allclose(weights[name], array, atol=1e-3)


def test_a_network_that_is_not_known(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", **{"embed/W": np.zeros((V, 2)), "encoder/W": np.zeros(2)})
    said = refusal(tmp_path / "model.npz")
    assert "belong to no network known here: 'embed/W', 'encoder/W'; expected are" in said
    assert "l1/upward/W" in said


def test_a_gap_in_the_layers(tmp_path: Path) -> None:
    network = networks.build({"kind": "gru", "vocabulary_size": V, "embedding_size": 2, "hidden_sizes": [3, 3, 3]})
    content = {path.lstrip("/"): parameter.array for path, parameter in network.namedparams()}
    del content["layers/1/W_h"]
    np.savez(tmp_path / "model.npz", **content)
    assert "layers/1/W_h is missing" in refusal(tmp_path / "model.npz")


def test_an_output_split_that_leaves_nothing_to_recur(tmp_path: Path) -> None:
    content = {"embed/W": (V, 3), "l1/W": (4, 2), "l1/b": (4,), "l2/W": (V, 4), "l2/b": (V,)}
    np.savez(tmp_path / "model.npz", **{name: np.zeros(shape, np.float32) for name, shape in content.items()})
    assert "hidden_size is a number from 1 to 16777216, not -1" in refusal(tmp_path / "model.npz")


def test_a_vocabulary_of_another_size(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", **arrays())
    assert "embed/W is for 9 words and the vocabulary has 10" in refusal(tmp_path / "model.npz", words=10)


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refusal(tmp_path / "nothing.npz")
    assert "cannot be read: Is a directory" in refusal(tmp_path)
    path = tmp_path / "model.npz"
    for content in (b"", b"some text", b"\x80\x04\x95pickle", b"\x89HDF\r\n\x1a\n"):
        path.write_bytes(content)
        assert "not an .npz" in refusal(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    assert "not an .npz" in refusal(tmp_path / "one.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "no array is named embed/W, which every network known here has; it has 'readme.txt'" in refusal(path)
    with zipfile.ZipFile(path, "w"):
        pass
    assert "no array is named embed/W" in refusal(path)


def raw_npz(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name + ".npy", content)


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_a_pickle_inside_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    content = {name: npy(array) for name, array in arrays().items()}
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()] * V, dtype=object), allow_pickle=True)
    raw_npz(tmp_path / "model.npz", content | {"l3/b": buffer.getvalue()})
    assert "l3/b is pickled" in refusal(tmp_path / "model.npz")
    assert not (tmp_path / "sprung").exists()


def header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (header("(1000000000000, 3)") + b"\0" * 64, "its header promises 12000000000000 bytes of data, there are 64"),
        (header("(9, 3)") + b"\0" * 100, "its header promises 108 bytes of data, there are 100"),
        (header("(9, 3)") + b"\0" * 10_000_000, "its header promises 108 bytes of data, there are 10000000"),
        (header("(9, -3)"), "embed/W has no readable header"),
        (header("(9, 3.5)"), "embed/W has no readable header"),
        (header("'ab'"), "embed/W has no readable header"),
        (header("(" * 5000), "embed/W has no readable header"),
        (header("__import__('os')"), "embed/W has no readable header"),
        (header("(9, 3)", "'<f3'"), "embed/W is <f3"),
        (header("(9, 3)", "'<f16'"), "embed/W is <f16"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "embed/W is not an array in NumPy's format 1.0"),
        (b"\x93NUM", "embed/W is not an array"),
        (b"plain text, no array", "embed/W is not an array"),
    ],
)
def test_a_header_is_not_believed(tmp_path: Path, member: bytes, said: str) -> None:
    content = {name: npy(array) for name, array in arrays().items()}
    raw_npz(tmp_path / "model.npz", content | {"embed/W": member})
    assert said in refusal(tmp_path / "model.npz")


def test_arrays_that_would_fill_the_memory_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "model.npz", **arrays())
    monkeypatch.setattr("model.checkpoint._MOST_BYTES", 800)
    assert "its arrays promise" in refusal(tmp_path / "model.npz")


def test_two_arrays_of_one_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.npz", "w") as archive:
        archive.writestr("embed/W.npy", npy(np.zeros((V, 3))))
        archive.writestr("embed/W", npy(np.zeros((V, 3))))
    assert "several arrays of one name" in refusal(tmp_path / "model.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_any_damage_is_an_error_of_ours_or_harmless(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "whole.npz", **arrays())
    whole = (tmp_path / "whole.npz").read_bytes()
    chance = random.Random(7)
    path = tmp_path / "model.npz"
    refused = 0
    for attempt in range(300):
        damaged = bytearray(whole)
        if attempt % 3 == 0:
            del damaged[chance.randrange(len(damaged)) :]
        else:
            for _ in range(chance.choice([1, 4, 32])):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path, words=V)
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
        else:
            assert found.weights["embed/W"].shape == (V, 3)
    assert refused > 200


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("words.txt", "a\nb\nc\n"),
        ("words.txt", "a\nb\nc"),
        ("words.txt", "a\r\nb\r\nc\r\n"),
        ("words.txt", "\ufeffa\nb\nc\n"),
        ("words.json", '["a", "b", "c"]'),
        ("words.json", '{"c": 2, "a": 0, "b": 1}'),
        ("words", '{"c": 2, "a": 0, "b": 1}'),
    ],
)
def test_vocabularies(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert read_vocabulary(tmp_path / name) == ["a", "b", "c"]


def test_a_list_of_words_may_look_like_json(tmp_path: Path) -> None:
    for words in (["[", "{", "1"], ["1"], ["null", "2"]):
        (tmp_path / "words.txt").write_text("\n".join(words))
        assert read_vocabulary(tmp_path / "words.txt") == words


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("words.txt", b"", "0 words"),
        ("words.txt", b"a\n\nb\n", "'', of id 1, is no single word"),
        ("words.txt", b"a\nb 17\n", "'b 17', of id 1, is no single word"),
        ("words.txt", b"a\nb\na\n", "'a' stands for both id 0 and id 2"),
        ("words.txt", "a\nStraße\n".encode("latin-1"), "not UTF-8 at byte 6"),
        ("words.json", b'["a", ', "not JSON"),
        ("words.json", b"[" * 100_000, "not JSON"),
        ("words.json", b'["a", 1]', "1 in the list is no word"),
        ("words.json", b"[]", "0 words"),
        ("words.json", b'{"a": 1, "b": 2}', "the ids of its 2 words are not 0 ... 1"),
        ("words.json", b'{"a": 0, "b": 0}', "not 0 ... 1, each once"),
        ("words.json", b'{"a": false, "b": 1}', "not 0 ... 1"),
        ("words.json", b'{"a": "0"}', "not 0 ... 0"),
    ],
)
def test_vocabularies_that_do_not_fit(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_vocabulary(tmp_path / name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_vocabulary(tmp_path / "words.txt")


def import_words(tmp_path: Path, words: list[str], **options: Any) -> Artifact:
    (tmp_path / "words.json").write_text(json.dumps(words))
    link = TutorialRNN(len(words), 2, 3)
    chainer.serializers.save_npz(tmp_path / "model.npz", link)
    return import_checkpoint(tmp_path / "model.npz", tmp_path / "words.json", tmp_path / "out", name="n", **options)


@pytest.mark.parametrize(
    ("words", "options", "vocabulary"),
    [
        (["UNK", "a", "</s>"], {}, ("<unk>", "a", "<eos>")),
        (["<UNK>", "a"], {}, ("<unk>", "a")),
        (["a", "rare", "stop"], {"unknown": "rare", "end": "stop"}, ("a", "<unk>", "<eos>")),
        (["a", "unk", "<unk>"], {}, ("a", "unk", "<unk>")),
        (["a", "<unk>", "."], {"end": "."}, ("a", "<unk>", "<eos>")),
    ],
)
def test_special_words_get_our_names(
    tmp_path: Path, words: list[str], options: dict[str, str], vocabulary: tuple[str, ...]
) -> None:
    artifact = import_words(tmp_path, words, **options)
    assert artifact.tokenizer.vocabulary == vocabulary
    assert artifact.start == ("<eos>" if "<eos>" in vocabulary else None)


def test_a_session_may_start_at_zeros(tmp_path: Path) -> None:
    assert import_words(tmp_path, WORDS, start="zeros").start is None


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        (["a", "b"], {}, "no word for unknown words (looked for <unk>, <UNK>"),
        (["a", "<unk>"], {"unknown": "b"}, "--unknown 'b' is no word of the vocabulary"),
        (["a", "<unk>"], {"end": "stop"}, "--end 'stop' is no word of the vocabulary"),
        (["a", "<unk>"], {"unknown": "a"}, "'a' cannot become <unk>, which is another word"),
        (["a", "b"], {"unknown": "a", "end": "a"}, "'a' cannot be both"),
        (["a", "<unk>", "well-known"], {"policy": "english"}, "'well-known' is not one word under the policy"),
        (["a", "<unk>"], {"policy": "german"}, "unknown policy 'german'"),
    ],
)
def test_special_words_that_do_not_fit(tmp_path: Path, words: list[str], options: dict[str, str], said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        import_words(tmp_path, words, **options)
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "network",
    [
        {"kind": "simple_rnn", "vocabulary_size": 3, "embedding_size": 2, "hidden_size": 3},
        {"kind": "lstm_stack", "vocabulary_size": 3, "embedding_size": 2, "hidden_sizes": [4, 2]},
    ],
    ids=["output matrix", "tied"],
)
def test_an_unknown_word_can_be_added_without_changing_a_prediction(tmp_path: Path, network: dict[str, Any]) -> None:
    link = networks.build(network)
    chainer.serializers.save_npz(tmp_path / "model.npz", link)
    (tmp_path / "words.txt").write_text("1\n2\n3\n")
    artifact = import_checkpoint(
        tmp_path / "model.npz", tmp_path / "words.txt", tmp_path / "out", name="n", add_unknown=True
    )
    assert artifact.tokenizer.vocabulary == ("1", "2", "3", "<unk>")
    assert artifact.network == network | {"vocabulary_size": 4}
    assert "`<unk>` was added" in artifact.card
    rows = log_probabilities_of_model(artifact, [2, 0, 1])
    state = link.zero_state(1)
    for row, id in zip(rows, [2, 0, 1], strict=True):
        h, state = link.step(np.array([id], np.int32), state)
        np.testing.assert_allclose(row[:3], F.log_softmax(link.logits(h)).array[0], atol=1e-5)
        assert row[3] < -90


def test_half_precision(tmp_path: Path, vocabulary: Path) -> None:
    np.savez(tmp_path / "model.npz", **arrays())
    artifact = import_checkpoint(tmp_path / "model.npz", vocabulary, tmp_path / "out", name="half", dtype="float16")
    np.testing.assert_array_equal(artifact.weights["l3/W"], artifact.weights["l3/W"].astype(np.float16))
