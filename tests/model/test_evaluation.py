import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import evaluation
from model.adaptation import Adaptation
from model.artifact import Artifact
from model.evaluation import EvaluationError
from model.measurement import ALL, RECALL_AT, WITHOUT_SPECIALS, WITHOUT_UNKNOWN, Measurement
from model.runtimes.base import Floats, Ids, State, StateTensor
from model.runtimes.reference import ReferenceRuntime
from model.shapes import parameter_shapes
from model.tokenizer import Tokenizer

WORDS = [
    *("<unk>", "<eos>", ".", ",", "the", "there", "then", "they", "them", "cat", "cats", "catch", "sat", "on", "one"),
    *("only", "mat", "match", "a", "an", "and", "London", "long", "I", "it", "is", "in", "don't", "Cat", "—", "..."),
]
TEXT = """The cats sat on the mat, and then they sat in London.
I don't catch them — a long match ... there is only one cat.

Unheard-of words; the CAT and the mat. It is in london, then,
an only Cat on THE match!
"""


class TableRuntime:
    """A bigram model in NumPy: `table` (V + 1, V) probabilities of the next word, the last row before any word."""

    name = "table"
    device = "cpu"
    threads = 1

    def __init__(self, table: Any) -> None:
        self.table = np.asarray(table, np.float64)
        self.vocabulary_size = self.table.shape[1]
        self.state_tensors = (StateTensor("h0", self.vocabulary_size, 0),)
        self.most_rows = 0

    def zero_state(self, batch: int) -> State:
        return (np.zeros((batch, self.vocabulary_size), np.float32),)

    def advance(self, ids: Ids, state: State) -> State:
        return (np.eye(self.vocabulary_size, dtype=np.float32)[ids],)

    def log_probabilities(self, hidden: Floats) -> Floats:
        self.most_rows = max(self.most_rows, len(hidden))
        last = np.where(hidden.any(axis=1), hidden.argmax(axis=1), self.vocabulary_size)
        with np.errstate(divide="ignore"):
            return np.log(self.table[last]).astype(np.float32)


def evaluate(artifact: Artifact, runtime: Any, text: str, **options: Any) -> Measurement:
    """What is found for one text."""
    return evaluation.evaluate(artifact, runtime, {"text": text}, **options).texts["text"]


def model_of(words: list[str], policy: str = "english", start: str | None = "<eos>", seed: int = 0) -> Artifact:
    network = {"kind": "simple_rnn", "vocabulary_size": len(words), "embedding_size": 5, "hidden_size": 7}
    chance = np.random.default_rng(seed)
    return Artifact(
        name="tiny",
        id="tiny@0",
        network=network,
        start=start,
        measured={},
        tokenizer=Tokenizer.from_vocabulary(words, policy),
        weights={
            name: chance.normal(size=shape).astype(np.float32) for name, shape in parameter_shapes(network).items()
        },
        card="",
    )


def brute_force(
    artifact: Artifact, text: str, words: int | None = None, adaptation: Adaptation | None = None
) -> dict[str, dict[str, Any]]:
    """Every figure, one word and one key at a time, in float64, from the equations and the definitions."""
    tokenizer, W = artifact.tokenizer, {name: weight.astype(np.float64) for name, weight in artifact.weights.items()}

    def step(h: Any, id: int) -> Any:
        return np.tanh(W["l1/W"] @ W["embed/W"][id] + W["l1/b"] + W["r1/W"] @ h + W["r1/b"])

    encoding = tokenizer.encode(text)
    h, pairs = np.zeros(7), list[tuple[Any, int]]()
    if artifact.start_id is not None:
        h = step(h, artifact.start_id)
    found = []
    for id, start, end in list(zip(encoding.ids, encoding.starts, encoding.ends, strict=True))[:words]:
        scores = W["l2/W"] @ h + W["l2/b"]
        p = np.exp(scores) / np.exp(scores).sum()
        if adaptation is not None and pairs:
            lately = pairs[-adaptation.size :]
            near = np.exp([adaptation.theta * (np.rint(h * 63) / 63) @ (key / 127) for key, _ in lately])
            p *= 1 - adaptation.weight
            for (_, word), share in zip(lately, near / near.sum(), strict=True):
                p[word] += adaptation.weight * share
        pairs.append((np.rint(h * 127), id))
        likeliest = list(np.argsort(-p, kind="stable"))
        if id == tokenizer.end_id:
            without = with_suggestions = 1
        else:
            without = with_suggestions = end - start + (text[end : end + 1] == " ")
            for typed in range(end - start) if id != tokenizer.unknown_id else ():
                among = set(tokenizer.prefix_ids(text[start : start + typed]))
                offered = [word for word in likeliest if word in among][:3]
                if id in offered and typed + 1 < without:
                    with_suggestions = typed + 1
                    break
        found.append((id, p[id], 1 + likeliest.index(id), without, with_suggestions))
        h = step(h, id)
    figures = {}
    for name, left_out in (
        (ALL, ()),
        (WITHOUT_UNKNOWN, (tokenizer.unknown_id,)),
        (WITHOUT_SPECIALS, (tokenizer.unknown_id, tokenizer.end_id)),
    ):
        rows = [row for row in found if row[0] not in left_out]
        nats = -sum(math.log(row[1]) for row in rows) / len(rows)
        figures[name] = {
            "targets": len(rows),
            "perplexity": pytest.approx(math.exp(nats), rel=1e-5),
            "bits": pytest.approx(nats / math.log(2), rel=1e-5),
            "recall": {str(k): sum(row[2] <= k for row in rows) / len(rows) for k in RECALL_AT},
            "keystroke_savings": pytest.approx(1 - sum(row[4] for row in rows) / sum(row[3] for row in rows)),
        }
    return figures


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("start", ["<eos>", None])
def test_figures_equal_those_of_the_definitions(seed: int, start: str | None) -> None:
    artifact = model_of(WORDS, start=start, seed=seed)
    found = evaluate(artifact, ReferenceRuntime(artifact), TEXT * 3)
    assert found.to_json()["figures"] == brute_force(artifact, TEXT * 3)
    assert found.figures[ALL].targets == found.words
    assert found.figures[ALL].targets > found.figures[WITHOUT_UNKNOWN].targets > found.figures[WITHOUT_SPECIALS].targets


@pytest.mark.parametrize("adaptation", [Adaptation(500, 0.5, 0.1), Adaptation(5, 3, 0.6)])
def test_a_model_that_adapts_to_the_text_while_reading_it(adaptation: Adaptation) -> None:
    artifact = model_of(WORDS)
    runtime = ReferenceRuntime(artifact)
    found = evaluation.evaluate(artifact, runtime, {"one": TEXT * 3, "other": TEXT}, adaptation=adaptation)
    for name, text in (("one", TEXT * 3), ("other", TEXT)):
        assert found.texts[name].to_json()["figures"] == brute_force(artifact, text, adaptation=adaptation)
    plain = evaluation.evaluate(artifact, runtime, {"one": TEXT * 3})
    assert found.to_json()["adaptation"]["size"] == adaptation.size
    assert plain.to_json()["adaptation"] is None


def test_text_that_was_split_beforehand() -> None:
    artifact = model_of(WORDS, policy="split")
    text = " the cats sat on <unk> , and\n\n they\nCAT sat .  \n"
    found = evaluate(artifact, ReferenceRuntime(artifact), text)
    assert found.to_json()["figures"] == brute_force(artifact, text)


def test_only_the_first_words() -> None:
    artifact = model_of(WORDS)
    found = evaluate(artifact, ReferenceRuntime(artifact), TEXT, words=17)
    assert found.words == 17
    assert found.to_json()["figures"] == brute_force(artifact, TEXT, words=17)


def test_blocks_do_not_change_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = model_of(WORDS)
    runtime = ReferenceRuntime(artifact)
    whole = evaluate(artifact, runtime, TEXT)
    for rows, values in ((1, 1 << 20), (7, 1 << 20), (256, 5 * len(WORDS)), (256, 1)):
        monkeypatch.setattr(evaluation, "_MOST_ROWS", rows)
        monkeypatch.setattr(evaluation, "_MOST_VALUES", values)
        found = evaluate(artifact, runtime, TEXT)
        assert found.figures[ALL].perplexity == pytest.approx(whole.figures[ALL].perplexity, rel=1e-5)
        for name, figures in found.figures.items():
            assert figures.recall == whole.figures[name].recall
            assert figures.keystroke_savings == whole.figures[name].keystroke_savings


def keystrokes(words: list[str], table: Any, text: str, policy: str = "english") -> tuple[float, float]:
    """Savings for all words, and without <unk> and <eos>."""
    found = evaluate(model_of(words, policy), TableRuntime(table), text).figures
    return found[ALL].keystroke_savings or 0, found[WITHOUT_SPECIALS].keystroke_savings or 0


def ranking(*likeliest: int, words: int) -> list[float]:
    """One distribution over `words` words: these first, the others after them in the order of their ids."""
    order = [*likeliest, *(id for id in range(words) if id not in likeliest)]
    row = np.zeros(words)
    row[order] = 0.5 ** np.arange(1, words + 1)
    return list(row)


class TestKeystrokes:
    words = ("<unk>", "<eos>", "then", "there", "they", "them", "thus", "dog", "dogs", ".")

    def of(self, text: str, *likeliest: int) -> tuple[float, float]:
        row = ranking(*likeliest, words=len(self.words))
        return keystrokes(list(self.words), [row] * (len(self.words) + 1), text)

    def test_among_the_first_three_before_any_letter(self) -> None:
        # "then " is five keys, or one.
        assert self.of("then dog", 7, 3, 2) == (pytest.approx(1 - 2 / 8),) * 2

    def test_special_words_are_passed_over(self) -> None:
        assert self.of("then", 0, 1, 7, 3, 2)[0] == pytest.approx(1 - 1 / 4)
        # Three words that can be offered are ahead: "t" leaves one of them.
        assert self.of("then", 0, 7, 3, 9, 2)[0] == pytest.approx(1 - 2 / 4)

    def test_one_letter_may_do(self) -> None:
        # Behind three others, of which two begin with d: "t", then accept.
        assert self.of("then ", 7, 8, 3, 2)[0] == pytest.approx(1 - 2 / 5)

    def test_many_letters_in_common(self) -> None:
        # "then" is behind "there", "they", "them": only "then" itself sets it apart, and is no shorter.
        assert self.of("then ", 3, 4, 5, 2)[0] == 0
        # "they" is behind "then", "there", "thus" and "them": four keys for "the", and accepting, instead of five.
        assert self.of("they ", 2, 3, 6, 5, 4)[0] == 0
        assert self.of("they ", 2, 6, 7, 8, 3, 4)[0] == pytest.approx(1 - 4 / 5)

    def test_equally_likely_words_stand_in_the_order_of_their_ids(self) -> None:
        even = [[0.1] * 10] * 11
        # "t": then, there, they are offered; them and thus are not. "thu" leaves thus alone, for "th" does not.
        for word, keys in (("then ", 1), ("they ", 1), ("them ", 5), ("thus ", 4), ("there ", 1)):
            savings, _ = keystrokes(list(self.words), even, word)
            assert savings == pytest.approx(1 - keys / len(word)), word

    def test_white_space_that_the_text_has_not_vanishes(self) -> None:
        # "dog" is three keys and "." one that cannot be saved, for it stands at the end.
        assert self.of("dog.", 7)[0] == pytest.approx(1 - 2 / 4)
        # ". " is two keys; accepted, one.
        assert self.of("dog. dog.", 7, 9)[0] == pytest.approx(1 - 4 / 9)

    def test_unknown_words_are_typed_in_full_and_line_ends_are_one_key(self) -> None:
        # zebra (6 with its space), dog (3, accepted: 1), line end (1), then (4, accepted: 1).
        assert self.of("zebra dog\nthen", 7, 2, 1) == (pytest.approx(1 - 9 / 14), pytest.approx(1 - 2 / 7))

    def test_several_line_ends_are_one_word_and_one_key(self) -> None:
        artifact = model_of(list(self.words))
        found = evaluate(artifact, TableRuntime([[0.1] * 10] * 11), "they\n\n\nthey")
        assert found.words == 3
        # they (4, accepted: 1), line end (1), they (1)
        assert found.figures[ALL].keystroke_savings == pytest.approx(1 - 3 / 9)

    def test_without_a_word_for_them_line_ends_are_white_space(self) -> None:
        words = ["<unk>", "dog", "cat"]
        artifact = model_of(words, start=None)
        found = evaluate(artifact, TableRuntime([ranking(1, 2, words=3)] * 4), "dog\ncat")
        assert found.words == 2
        assert found.figures[ALL].keystroke_savings == pytest.approx(1 - 2 / 7)

    def test_what_was_typed_is_what_counts(self) -> None:
        words = ["<unk>", "<eos>", "polish", "Polish", "police", "Police", "polite", "pole"]
        row = ranking(7, 4, 5, 6, 2, 3, words=8)
        # "Pol": Police and Polish, for "pole" typed as "Pole" reads as pole, "Polite" as polite: Polish is fourth.
        # "Poli" leaves Police, polite and Polish.
        savings, _ = keystrokes(words, [row] * 9, "Polish ")
        assert savings == pytest.approx(1 - 5 / 7)
        # Typed in capitals, "POLI" may become police, polish, polite in lower case; the third of them at "POLI".
        savings, _ = keystrokes(words, [row] * 9, "POLISH ")
        assert savings == pytest.approx(1 - 5 / 7)


def test_the_context_is_carried_from_the_first_word_to_the_last() -> None:
    words = ["<unk>", "<eos>", "a", "b"]
    table = [
        [0.25, 0.25, 0.25, 0.25],  # after <unk>
        [0.0625, 0.0625, 0.75, 0.125],  # after <eos>
        [0.125, 0.125, 0.25, 0.5],  # after a
        [0.25, 0.5, 0.125, 0.125],  # after b
        [0.125, 0.125, 0.5, 0.25],  # before any word
    ]
    text = "a b\na zebra"
    found = evaluate(model_of(words), TableRuntime(table), text)
    # a|<eos>, b|a, <eos>|b, a|<eos>, <unk>|a
    bits = [-math.log2(0.75), 1, 1, -math.log2(0.75), 3]
    assert found.figures[ALL].bits == pytest.approx(sum(bits) / 5)
    assert found.figures[WITHOUT_UNKNOWN].bits == pytest.approx(sum(bits[:4]) / 4)
    assert found.figures[WITHOUT_SPECIALS].bits == pytest.approx((bits[0] + bits[1] + bits[3]) / 3)
    assert found.figures[ALL].perplexity == pytest.approx(2 ** (sum(bits) / 5))
    # Of a row's equal values the lower id comes first: <unk>|a is the third of four.
    assert found.figures[ALL].recall == {1: 0.8, 3: 1, 5: 1, 10: 1}
    zeros = evaluate(model_of(words, start=None), TableRuntime(table), text)
    assert zeros.figures[ALL].bits == pytest.approx((1 + sum(bits[1:])) / 5)


def test_calibration() -> None:
    words = ["<unk>", "<eos>", "a", "b"]
    after_a, after_b = [0.1, 0.1, 0.1, 0.7], [0.05, 0.05, 0.9, 0.0]
    table = [after_b, after_b, after_a, after_b, after_b]
    # Said 0.9 for a: right 3 of 3. Said 0.7 for b after a: right once, wrong once.
    found = evaluate(model_of(words), TableRuntime(table), "a b a a")
    said = {0.9: [True, True], 0.7: [True, False]}
    expected = sum(abs(sum(hits) - p * len(hits)) for p, hits in said.items()) / 4
    assert found.calibration.error == pytest.approx(expected, rel=1e-5)
    certain = evaluate(model_of(words, start=None), TableRuntime([[0, 0, 1, 0]] * 5), "a a a")
    assert certain.calibration.error == 0


@pytest.mark.parametrize("streams", [2, 3, 7, 50, 10_000])
def test_streams_read_every_word_once_and_each_starts_as_the_text_does(streams: int) -> None:
    artifact = model_of(WORDS)
    runtime = ReferenceRuntime(artifact)
    found = evaluation.evaluate(artifact, runtime, {"text": TEXT}, streams=streams)
    ids = artifact.tokenizer.encode(TEXT).ids
    N = len(ids)
    length = -(-N // min(streams, N))
    firsts = range(0, N, length)
    assert found.streams == len(firsts)
    assert found.together.figures[ALL].targets == N
    nats = []
    for first in firsts:
        state = runtime.advance(np.array([artifact.start_id]), runtime.zero_state(1))
        for id in ids[first : first + length]:
            nats.append(-runtime.log_probabilities(state[-1])[0, id])
            state = runtime.advance(np.array([id]), state)
    assert found.together.figures[ALL].perplexity == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)


def test_texts_too_short_for_streams_were_read_in_one_piece() -> None:
    artifact = model_of(WORDS)
    found = evaluation.evaluate(artifact, ReferenceRuntime(artifact), {"one": "cats", "other": "the"}, streams=8)
    assert found.streams == 1


TEXTS = {"long": TEXT * 2, "one word": "cats", "short": "The mat.\n", "unknown": "zebra"}


def same(found: Measurement, expected: Measurement) -> None:
    """Equal but for what float32 does to rows that are computed beside others."""
    assert found.words == expected.words
    assert found.figures.keys() == expected.figures.keys()
    for name, figures in found.figures.items():
        other = expected.figures[name]
        assert (figures.targets, figures.hits, figures.keys) == (other.targets, other.hits, other.keys)
        assert figures.nats == pytest.approx(other.nats, rel=1e-5)
    for name in ("counts", "said", "right"):
        np.testing.assert_allclose(getattr(found.calibration, name), getattr(expected.calibration, name), rtol=1e-5)
    np.testing.assert_allclose(found.costs, expected.costs, rtol=1e-5)
    assert found.mistakes == expected.mistakes


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("order", [list(TEXTS), list(reversed(TEXTS))])
def test_texts_side_by_side_give_what_each_gives_alone(order: list[str], streams: int) -> None:
    artifact = model_of(WORDS)
    runtime = ReferenceRuntime(artifact)
    found = evaluation.evaluate(artifact, runtime, {name: TEXTS[name] for name in order}, streams=streams)
    assert list(found.texts) == order
    for name in order:
        same(found.texts[name], evaluate(artifact, runtime, TEXTS[name], streams=streams))


def test_texts_together_are_all_their_targets() -> None:
    artifact = model_of(WORDS)
    runtime = ReferenceRuntime(artifact)
    together = evaluation.evaluate(artifact, runtime, TEXTS).together
    alone = [evaluate(artifact, runtime, text) for text in TEXTS.values()]
    for name in (ALL, WITHOUT_UNKNOWN, WITHOUT_SPECIALS):
        parts = [found.figures[name] for found in alone if name in found.figures]
        targets = sum(part.targets for part in parts)
        nats = sum(math.log(part.perplexity) * part.targets for part in parts) / targets
        assert together.figures[name].targets == targets
        assert together.figures[name].perplexity == pytest.approx(math.exp(nats), rel=1e-5)
        hits = sum(part.recall[3] * part.targets for part in parts)
        assert together.figures[name].recall[3] == pytest.approx(hits / targets)
        keys = [part.keys for part in parts if part.keys is not None]
        saved = 1 - sum(given for _, given in keys) / sum(without for without, _ in keys)
        assert together.figures[name].keystroke_savings == pytest.approx(saved)
    assert list(together.figures) == [ALL, WITHOUT_UNKNOWN, WITHOUT_SPECIALS]


def test_the_white_space_of_one_text_is_not_in_another() -> None:
    artifact, runtime = model_of(["<unk>", "dog"], start=None), TableRuntime([ranking(1, words=2)] * 3)
    found = evaluation.evaluate(artifact, runtime, {"a": "dog", "b": " dog"})
    assert [text.figures[ALL].keystroke_savings for text in found.texts.values()] == [pytest.approx(2 / 3)] * 2


def test_what_words_cost_and_what_was_expected_instead() -> None:
    words = ["<unk>", "<eos>", "a", "b"]
    after_a, after_b = [0.1, 0.1, 0.2, 0.6], [0.05, 0.1, 0.8, 0.05]
    found = evaluate(model_of(words), TableRuntime([after_b, after_b, after_a, after_b, after_b]), "a a b b")
    assert found.mistakes == {(2, 3): 1, (3, 2): 1}
    nats = [0, 0, -math.log(0.8) - math.log(0.2), -math.log(0.6) - math.log(0.05)]
    np.testing.assert_allclose(found.costs, nats, rtol=1e-5)
    assert found.counts.tolist() == [0, 0, 2, 2]


def test_a_set_without_targets_is_absent() -> None:
    words = ["<unk>", "<eos>", "a"]
    found = evaluate(model_of(words), TableRuntime([[0.25, 0.25, 0.5]] * 4), "zebra\nzebra")
    assert list(found.figures) == [ALL, WITHOUT_UNKNOWN]
    assert found.figures[WITHOUT_UNKNOWN].targets == 1


def test_as_json_and_without_keystrokes() -> None:
    artifact = model_of(WORDS)
    runtime = ReferenceRuntime(artifact)
    found = evaluation.evaluate(artifact, runtime, {"a": TEXT, "b": TEXT}, keystrokes=False)
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["model"] == "tiny@0"
    assert (content["runtime"], content["suggestions"], content["streams"]) == ("chainer", 3, 1)
    assert content["figures"][ALL]["keystroke_savings"] is None
    assert content["figures"][ALL]["recall"].keys() == {"1", "3", "5", "10"}
    alone = evaluate(artifact, runtime, TEXT).figures[ALL].perplexity
    for figures in (content["figures"], content["texts"]["a"]["figures"], content["texts"]["b"]["figures"]):
        assert figures[ALL]["perplexity"] == pytest.approx(alone, rel=1e-5)


def test_progress_ends_with_all_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_MOST_ROWS", 10)
    calls: list[tuple[int, int]] = []
    artifact = model_of(WORDS)
    found = evaluate(
        artifact, ReferenceRuntime(artifact), TEXT, progress=lambda done, total: calls.append((done, total))
    )
    assert calls[0] == (10, found.words)
    assert calls[-1] == (found.words, found.words)
    assert calls == sorted(calls)


@pytest.mark.parametrize("streams", [1, 1000])
def test_few_rows_are_projected_at_once(streams: int) -> None:
    artifact = model_of(WORDS)
    runtime = TableRuntime([[1 / len(WORDS)] * len(WORDS)] * (len(WORDS) + 1))
    evaluate(artifact, runtime, TEXT * 50, streams=streams)
    assert 1 < runtime.most_rows <= 256


@pytest.mark.parametrize("text", ["", "  ", "\x00\x01"])
def test_a_text_without_words(text: str) -> None:
    artifact = model_of(WORDS)
    with pytest.raises(EvaluationError, match="text: the text has no words"):
        evaluate(artifact, ReferenceRuntime(artifact), text)


@pytest.mark.parametrize("options", [{"words": 0}, {"streams": 0}])
def test_options_out_of_range(options: dict[str, int]) -> None:
    artifact = model_of(WORDS)
    with pytest.raises(EvaluationError, match="at least 1"):
        evaluate(artifact, ReferenceRuntime(artifact), TEXT, **options)  # type: ignore[arg-type]


def test_a_probability_of_zero_is_no_figure() -> None:
    with pytest.raises(EvaluationError, match="table gave word 1 of text, 'b', the log-probability -inf"):
        evaluate(model_of(["<unk>", "<eos>", "a", "b"]), TableRuntime([[0, 0, 1, 0]] * 5), "a b")


def test_a_model_that_has_diverged_is_no_crash() -> None:
    artifact = model_of(WORDS)
    artifact.weights["l2/W"][...] *= 1e4
    with pytest.raises(EvaluationError, match="nats on average, which is no perplexity"):
        evaluate(artifact, ReferenceRuntime(artifact), TEXT)


@given(st.text(st.sampled_from("ab.'-\n\r \u200b\u2028\u0301é"), max_size=60), st.sampled_from(["english", "split"]))
def test_a_text_cut_into_pieces_has_the_same_words(text: str, policy: str) -> None:
    tokenizer = model_of(WORDS, policy).tokenizer
    whole = tokenizer.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_CHARACTERS_AT_ONCE", 3)
        pieces = evaluation._encode(tokenizer, text, None)
    for name in ("ids", "starts", "ends"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name))


def test_a_long_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = model_of(WORDS).tokenizer
    lengths: list[int] = []
    encode = Tokenizer.encode

    def counted(self: Tokenizer, text: str) -> Any:
        lengths.append(len(text))
        return encode(self, text)

    monkeypatch.setattr(Tokenizer, "encode", counted)
    monkeypatch.setattr(evaluation, "_CHARACTERS_AT_ONCE", 100)
    evaluation._encode(tokenizer, TEXT * 10, None)
    assert sum(lengths) == len(TEXT * 10)
    assert max(lengths) < 250
    lengths.clear()
    assert len(evaluation._encode(tokenizer, TEXT * 10, 5).ids) == 5
    assert len(lengths) == 1


def test_evaluation_reads_a_model_directory(tmp_path: Path) -> None:
    tiny = model_of(WORDS)
    artifact = Artifact.write(
        tmp_path / "model",
        name="tiny",
        network=tiny.network,
        start="<eos>",
        tokenizer=tiny.tokenizer,
        weights=tiny.weights,
        card="# tiny\n",
    )
    found = evaluate(artifact, ReferenceRuntime(artifact), TEXT)
    recorded = Artifact.record(tmp_path / "model", {"perplexity": found.figures[ALL].perplexity}, of=artifact.id)
    assert recorded.measured["perplexity"] == pytest.approx(found.figures[ALL].perplexity)
