"""Checkpoints that Chainer saved elsewhere, made into a model directory with the vocabulary they were trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.artifact import Artifact
from model.checkpoint import CheckpointError, read_checkpoint
from model.shapes import parameter_shapes
from model.tokenizer import END, UNKNOWN, Tokenizer, TokenizerError

_MOST_VOCABULARY_BYTES = 256 << 20
_MOST_WORDS = 1 << 24
_USUAL_UNKNOWN = (UNKNOWN, "<UNK>", "[UNK]", "<unknown>", "<Unk>", "UNK", "unk")
_USUAL_END = (END, "<EOS>", "</s>", "<end>", "[EOS]")

# An unknown word that a network was not trained with is never predicted: exp(-100) is nothing beside any word.
_NEVER = 100.0


def read_vocabulary(path: Path) -> list[str]:
    """The words in the order of their ids, from a UTF-8 file: one word a line, or a JSON list of words, or a JSON
    object from word to id (the ids being 0 ... N-1).

    Raises CheckpointError for a file that is missing, not UTF-8 or of another form, and for an entry that is no single
    word or repeats one.
    """
    try:
        if path.stat().st_size > _MOST_VOCABULARY_BYTES:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes are too many for a vocabulary")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 at byte {error.start}; save the vocabulary as UTF-8") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    words = _json_words(path, text)
    if words is None:
        words = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    if not 1 <= len(words) <= _MOST_WORDS or words == [""]:
        raise CheckpointError(
            f"{path}: {0 if words == [''] else len(words)} words; a vocabulary has 1 to {_MOST_WORDS}"
        )
    first: dict[str, int] = {}
    for number, word in enumerate(words):
        if word.split() != [word]:
            raise CheckpointError(
                f"{path}: {word!r:.80}, of id {number}, is no single word; give one word a line, nothing else, or JSON"
            )
        if first.setdefault(word, number) != number:
            raise CheckpointError(f"{path}: {word!r:.80} stands for both id {first[word]} and id {number}")
    return words


def import_checkpoint(
    checkpoint: Path,
    vocabulary: Path,
    out: Path,
    *,
    name: str,
    policy: str = "split",
    unknown: str | None = None,
    end: str | None = None,
    add_unknown: bool = False,
    start: Literal["end", "zeros"] = "end",
    prefix: str | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> Artifact:
    """Make a model directory of a checkpoint and its vocabulary; returns the model.

    policy: how text becomes words, see `model.tokenizer`; "split" where the training text was already split.
    unknown, end: which words of the vocabulary stand for unknown words and for an end of sentence, if they have names
    that are not usual; the model knows them as ``<unk>`` and ``<eos>``. add_unknown: the vocabulary has no unknown
    word, so add one, which is read as zeros and never predicted. start: an empty session stands after an end of
    sentence, if the vocabulary has one, or at zeros.
    Raises CheckpointError for what does not fit, ArtifactError if `out` cannot be written.
    """
    words = read_vocabulary(vocabulary)
    found = read_checkpoint(checkpoint, words=len(words), prefix=prefix)
    network, weights = found.network, found.weights
    words, adding = _named_specials(vocabulary, words, unknown, end, add_unknown)
    if adding:
        network, weights = _with_one_more_word(network, weights)
    try:
        tokenizer = Tokenizer.from_vocabulary(words, policy)
    except TokenizerError as error:
        raise CheckpointError(f"{vocabulary}: {error}") from error
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    first = END if start == "end" and tokenizer.end_id is not None else None
    return Artifact.write(
        out,
        name=name,
        network=network,
        start=first,
        tokenizer=tokenizer,
        weights=weights,
        card=_card(name, network, weights, checkpoint.name, digest, vocabulary.name, policy, first, adding),
        training={"imported_from": checkpoint.name, "sha256": digest, "prefix": found.prefix},
        dtype=dtype,
    )


def _json_words(path: Path, text: str) -> list[str] | None:
    """The words of a JSON list or object; None if the file is no JSON, and so a list of lines."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if path.suffix == ".json":
            raise CheckpointError(f"{path}: not JSON: {error}") from error
        return None
    if isinstance(content, list):
        if wrong := [word for word in content if not isinstance(word, str)]:
            raise CheckpointError(f"{path}: {wrong[0]!r:.80} in the list is no word")
        return content
    if not isinstance(content, dict):
        return None  # a list of lines can be a number
    ids = list(content.values())
    if any(not isinstance(id, int) or isinstance(id, bool) for id in ids) or sorted(ids) != list(range(len(ids))):
        raise CheckpointError(f"{path}: the ids of its {len(ids)} words are not 0 ... {len(ids) - 1}, each once")
    return sorted(content, key=content.__getitem__)


def _named_specials(
    path: Path, words: list[str], unknown: str | None, end: str | None, add_unknown: bool
) -> tuple[list[str], bool]:
    """The words with the special ones under the names that the program uses, and whether <unk> had to be added."""
    unknown = _choose(path, words, "--unknown", unknown, _USUAL_UNKNOWN)
    end = _choose(path, words, "--end", end, _USUAL_END)
    if unknown is not None and unknown == end:
        raise CheckpointError(f"{path}: {unknown!r} cannot be both the unknown word and the end of sentence")
    for given, name in ((unknown, UNKNOWN), (end, END)):
        if given not in (None, name) and name in words:
            raise CheckpointError(f"{path}: {given!r} cannot become {name}, which is another word of the vocabulary")
    renamed = [UNKNOWN if word == unknown else END if word == end else word for word in words]
    if unknown is not None:
        return renamed, False
    if not add_unknown:
        raise CheckpointError(
            f"{path}: no word for unknown words (looked for {', '.join(_USUAL_UNKNOWN)}); name it with --unknown, or "
            "have one added with --add-unknown"
        )
    return [*renamed, UNKNOWN], True


def _choose(path: Path, words: Sequence[str], option: str, given: str | None, usual: Sequence[str]) -> str | None:
    if given is None:
        return next((word for word in usual if word in words), None)
    if given not in words:
        raise CheckpointError(f"{path}: {option} {given!r} is no word of the vocabulary")
    return given


def _with_one_more_word(
    network: Mapping[str, Any], weights: Mapping[str, NDArray[np.float32]]
) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """The same network with one word more, the last: zeros when read, and never predicted."""
    larger = dict(network) | {"vocabulary_size": network["vocabulary_size"] + 1}
    grown: dict[str, NDArray[np.float32]] = {}
    for name, shape in parameter_shapes(larger).items():
        weight = weights[name]
        if weight.shape != shape:
            fill = weight.min() - _NEVER if weight.ndim == 1 else 0.0
            weight = np.concatenate([weight, np.full((1, *shape[1:]), fill, np.float32)])
        grown[name] = weight
    return larger, grown


def _card(
    name: str,
    network: Mapping[str, Any],
    weights: Mapping[str, NDArray[np.float32]],
    checkpoint: str,
    digest: str,
    vocabulary: str,
    policy: str,
    start: str | None,
    added: bool,
) -> str:
    sizes = ", ".join(f"{key} {value}" for key, value in network.items() if key != "kind")
    lines = [
        f"# {name}\n",
        f"Imported from the Chainer checkpoint `{checkpoint}` (SHA-256 {digest}), its words from `{vocabulary}`.\n",
        f"- Network: `{network['kind']}`, {sizes}; {sum(weight.size for weight in weights.values()):,} parameters.",
        f"- Text becomes words by the policy `{policy}`.",
        f"- A session starts {f'as after `{start}`' if start else 'at a state of zeros'}.",
    ]
    if added:
        lines.append(
            "- The vocabulary had no word for unknown words: `<unk>` was added, reads as zeros, is never predicted."
        )
    lines.append(
        "\nWhat it was trained on, under which licence, and how well it predicts is not known to the program that "
        "imported it. `nextword evaluate` measures the last.\n"
    )
    return "\n".join(lines)
