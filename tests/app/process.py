"""`nextword serve` with the fake runtime, in a process of its own, as tests start it and talk to it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from model.artifact import Artifact
from model.tokenizer import Tokenizer
from tests.app.fake_runtime import WORDS

ROOT = Path(__file__).parents[2]


def write_model(path: Path) -> Path:
    """A model directory; its words are the fake runtime's, its weights anything."""
    size = len(WORDS)
    shapes = {
        "embed/W": (size, 2),
        "l1/W": (3, 2),
        "l1/b": (3,),
        "r1/W": (3, 3),
        "r1/b": (3,),
        "l2/W": (size, 3),
        "l2/b": (size,),
    }
    Artifact.write(
        path,
        name="fake",
        network={"kind": "simple_rnn", "vocabulary_size": size, "embedding_size": 2, "hidden_size": 3},
        start="<eos>",
        tokenizer=Tokenizer.from_vocabulary(WORDS, "english"),
        weights={name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()},
        card="# Fake",
    )
    return path


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("NEXTWORD_")}


def start(*arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.app.serve_fake", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=environment() | variables, stderr=subprocess.PIPE, text=True)


def output(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    with process.stderr:
        text = process.stderr.read()
    process.wait(20)
    return text


@contextmanager
def serving(directory: Path, *arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server on a free port, ready, and its address."""
    process = start("--model", directory, "--port", "0", *arguments, **variables)
    assert process.stderr is not None
    try:
        line = ""
        while "ready:" not in line:
            line = process.stderr.readline()
            assert line, "the server stopped before it was ready"
        found = re.search(r"http://[\w.:\[\]]+", line)
        assert found is not None
        yield process, found[0]
    finally:
        process.kill()
        process.wait(20)
        process.stderr.close()
