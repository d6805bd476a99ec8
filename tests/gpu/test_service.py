"""`nextword serve` on a GPU, over HTTP."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.settings import SHIPPED_MODEL
from model.artifact import Artifact
from model.runtimes.cpu import CpuRuntime
from tests.gpu.device import needs_gpu

pytestmark = needs_gpu
ROOT = Path(__file__).parents[2]
#: What --runtime is here.
RUNTIME = "cuda-float32"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = [sys.executable, "-c", "from app.cli import main; main()", "serve", "--port", "0", "--runtime", RUNTIME]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            seen = []
            while "ready:" not in (line := process.stderr.readline()):
                seen.append(line)
                assert line, "".join(seen)
            found = re.search(r"http://[\w.:\[\]]+", line)
            assert found is not None
            yield found[0]
        finally:
            process.terminate()


def post(address: str, what: str = "predict", **fields: Any) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{address}/v1/{what}", json.dumps(fields).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def distributions(artifact: Artifact, *texts: list[str]) -> Any:
    """After each of these texts, of the same length: (texts, words) log-probabilities."""
    alone = CpuRuntime(artifact, quantised=False)
    state = alone.zero_state(len(texts))
    ids = np.array([[artifact.tokenizer.id_of(word) for word in text] for text in texts], np.int64)
    if artifact.start_id is not None:
        state = alone.advance(np.full(len(texts), artifact.start_id), state)
    for column in ids.T:
        state = alone.advance(np.ascontiguousarray(column), state)
    return alone.log_probabilities(state[-1])


def test_many_sessions_at_once_get_what_each_would_get_alone(address: str) -> None:
    artifact = Artifact.load(SHIPPED_MODEL)
    words = [word for word in artifact.tokenizer.vocabulary if word.isalpha()][:500]
    draw = np.random.default_rng(0)
    texts = [[words[place] for place in draw.integers(0, len(words), 12)] for _ in range(64)]

    def converse(text: list[str]) -> dict[str, Any]:
        answer = post(address, words=text[:1], top_k=5)
        for word in text[1:]:
            answer = post(address, session_id=answer["session_id"], words=[word], top_k=5)
        return answer

    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(converse, texts))
    rows = distributions(artifact, *texts)
    for answer, row in zip(answers, rows, strict=True):
        assert answer["position"] == 12
        for prediction in answer["predictions"]:
            id = artifact.tokenizer.id_of(prediction["word"])
            assert id is not None
            np.testing.assert_allclose(prediction["log_probability"], row[id], atol=1e-3)


def test_scores_prefixes_and_words_that_are_said(address: str) -> None:
    artifact = Artifact.load(SHIPPED_MODEL)
    words = ["the", "letter", "was", "the", "letter", "that", "she", "read"]
    (scored,) = post(address, "score", text=" ".join(words), top_k=3)["results"]
    for place, word in enumerate(scored["words"]):
        (row,) = distributions(artifact, words[:place])
        np.testing.assert_allclose(word["log_probability"], row[artifact.tokenizer.id_of(words[place])], atol=1e-3)
        assert len(word["predictions"]) == 3
    (row,) = distributions(artifact, words)
    begun = post(address, words=words, prefix="ag", top_k=5)
    assert all(prediction["word"].startswith("ag") for prediction in begun["predictions"])
    for how in ({"temperature": 0}, {"top_k": 40, "seed": 1}, {"seed": 1}):
        said = post(address, "generate", words=words, max_words=5, **how)["words"]
        assert len(said) == 5
        assert post(address, "generate", words=words, max_words=5, **how)["words"] == said
    assert said[0] in artifact.tokenizer.vocabulary
    best = post(address, "generate", words=words, max_words=1, temperature=0)["words"][0]
    assert row[artifact.tokenizer.id_of(best)] > np.sort(row)[-2] - 1e-3
    answers = []
    for adapt in (False, True):
        session = post(address, "sessions", adapt=adapt)["session_id"]
        answers.append(post(address, session_id=session, words=[*words, *words[:1]]))
    # "letter" came after this word before.
    adapted, plain = ({it["word"]: it["probability"] for it in answer["predictions"]} for answer in answers[::-1])
    assert adapted["letter"] > plain.get("letter", 0)
