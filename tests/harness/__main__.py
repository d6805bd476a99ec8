"""`python -m tests.harness --lm-eval PROGRAM`: lm-evaluation-harness asks `nextword serve`, as it asks any server that
speaks OpenAI's completions, and its figures are held to those of `nextword evaluate`.

Per text and per choice, in both runtimes for the CPU; a difference of more than 1e-4 is an error. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import model.runtimes
from app.settings import SHIPPED_MODEL
from model.artifact import Artifact
from model.evaluation import ALL, evaluate
from model.runtimes.base import Runtime
from tests.benchmarks.report import table
from tests.benchmarks.servers import Server, free_port, nextword

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUNTIMES = ("cpu-float32", "cpu")
TASKS = ("nextword_texts", "nextword_choices", "nextword_beginnings")

#: How far figures may be apart: perplexities as a ratio, log-likelihoods in nats.
TOLERANCE = 1e-4

#: The most words that the task asks to be said, `max_gen_toks`.
LONGEST = 12


class Row(NamedTuple):
    """A figure that both have."""

    name: str
    theirs: float
    ours: float
    apart: float


def lines(name: str) -> list[dict[str, Any]]:
    """The documents of a task."""
    return [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def asked(program: str, address: str, output: Path) -> tuple[str, dict[str, Any], dict[str, list[Any]]]:
    """How the harness was called, its results, and by task what it found for each document."""
    server = {
        "model": "english",
        "base_url": f"{address}/v1/completions",
        "tokenizer_backend": "remote",
        "num_concurrent": "2",
        "max_length": "4096",
    }
    command = [
        *(program, "--model", "local-completions"),
        *("--model_args", ",".join(f"{name}={value}" for name, value in server.items())),
        *("--include_path", str(HERE.relative_to(ROOT)), "--tasks", ",".join(TASKS), "--batch_size", "4"),
        *("--output_path", str(output), "--log_samples"),
    ]
    # Nothing is asked of a hub: the texts are here, the tokenizer is the server's.
    alone = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(output / "cache")}
    subprocess.run(command, cwd=ROOT, env=os.environ | alone, stdout=subprocess.DEVNULL, check=True)
    shown = shlex.join(["lm_eval", *command[1:-3]])
    (results,) = output.glob("*/results_*.json")
    found = {}
    for task in TASKS:
        (file,) = output.glob(f"*/samples_{task}_*.jsonl")
        samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        found[task] = [sample["resps"] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
    return shown, json.loads(results.read_text(encoding="utf-8"))["results"], found


def evaluated(documents: Sequence[str], runtime: str, directory: Path) -> list[tuple[float, int]]:
    """What `nextword evaluate` says of each text: its perplexity, and of how many words."""
    command = [str(Path(sys.executable).with_name("nextword")), "evaluate", str(SHIPPED_MODEL)]
    command += ["--runtime", runtime, "--no-keystrokes", "--json"]
    files = [directory / f"text-{number}.txt" for number in range(len(documents))]
    for file, text in zip(files, documents, strict=True):
        file.write_text(text, encoding="utf-8")
        command += ["--data", str(file)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    texts = json.loads(done.stdout)["texts"]
    figures = [texts[file.name]["figures"][ALL] for file in files]
    return [(found["perplexity"], found["targets"]) for found in figures]


def texts(found: list[Any], result: dict[str, float], runtime: str, directory: Path) -> Iterator[Row]:
    """Perplexity of each text; the harness knows log-likelihoods, and for all of them a perplexity of its own words."""
    total, words = 0.0, 0
    documents = [line["text"] for line in lines("texts")]
    figures = evaluated(documents, runtime, directory)
    for number, (text, (perplexity, targets), ((value,),)) in enumerate(zip(documents, figures, found, strict=True), 1):
        theirs = math.exp(-float(value) / targets)
        yield Row(f"text {number}: perplexity of {targets} words", theirs, perplexity, abs(theirs / perplexity - 1))
        total -= targets * math.log(perplexity)
        words += len(text.split()) + text.endswith("\n")  # split at white space, which a last line end is, too
    theirs, ours = result["word_perplexity,none"], math.exp(-total / words)
    yield Row("all texts: `word_perplexity`", theirs, ours, abs(theirs / ours - 1))


def choices(found: list[Any], result: dict[str, float], runtime: Runtime, artifact: Artifact) -> Iterator[Row]:
    """Log-likelihood of each way to go on: that of the whole less that of its beginning."""

    def value(text: str) -> float:
        figures = evaluate(artifact, runtime, {"text": text}, keystrokes=False).together.figures[ALL]
        return -figures.targets * math.log(figures.perplexity)

    theirs, ours, right = [], [], 0
    for line, answers in zip(lines("choices"), found, strict=True):
        before = value(line["before"])
        values = [value(line["before"] + choice) - before for choice in line["choices"]]
        ours += values
        theirs += [float(their) for ((their, _),) in answers]
        right += values.index(max(values)) == line["answer"]
    apart = max(abs(a - b) for a, b in zip(theirs, ours, strict=True))
    yield Row(f"{len(ours)} choices: log-likelihoods, their sum", math.fsum(theirs), math.fsum(ours), apart)
    accuracy = right / len(found)
    yield Row("choices: `acc`", result["acc,none"], accuracy, abs(result["acc,none"] - accuracy))


def beginnings(found: list[Any], runtime: Runtime, artifact: Artifact) -> Iterator[Row]:
    """How many words are said after each beginning, and how many of them are not the likeliest in their place."""
    tokenizer = artifact.tokenizer
    said, wrong = 0, 0
    for line, ((text,),) in zip(lines("beginnings"), found, strict=True):
        ids = tokenizer.encode(line["text"]).ids.tolist()
        words = tokenizer.encode(line["text"] + text).ids.tolist()[len(ids) :]
        state = runtime.zero_state(1)
        for id in [artifact.start_id, *ids]:
            state = runtime.advance(np.array([id]), state)
        for id in [*words, tokenizer.id_of(".")][:LONGEST]:
            row = runtime.log_probabilities(state[-1])[0]
            row[tokenizer.unknown_id] = -np.inf  # never said
            wrong += id != int(row.argmax())
            state = runtime.advance(np.array([id]), state)
        said += len(words)
    yield Row("beginnings: words said, all but those that are not the likeliest", said, said - wrong, wrong)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.harness", description=__doc__)
    parser.add_argument("--lm-eval", required=True, help="the program `lm_eval` of the harness's own environment")
    program = parser.parse_args().lm_eval
    artifact = Artifact.load(SHIPPED_MODEL)
    worst = 0.0
    for runtime in RUNTIMES:
        port = free_port()
        with (
            tempfile.TemporaryDirectory(prefix="nextword-harness-") as name,
            Server(nextword(port, SHIPPED_MODEL, "--runtime", runtime), port) as server,
        ):
            directory = Path(name)
            server.wait_ready()
            alone = model.runtimes.load(artifact, runtime)
            shown, results, found = asked(program, f"http://127.0.0.1:{port}", directory)
            rows = [
                *texts(found["nextword_texts"], results["nextword_texts"], runtime, directory),
                *choices(found["nextword_choices"], results["nextword_choices"], alone, artifact),
                *beginnings(found["nextword_beginnings"], alone, artifact),
            ]
        print(f"`nextword serve --port {port} --runtime {runtime}` ({artifact.id}) and\n\n    {shown}\n")
        cells = [[row.name, f"{row.theirs:.6f}", f"{row.ours:.6f}", f"{row.apart:.1e}"] for row in rows]
        print(table(["", "lm_eval", "nextword evaluate", "apart"], cells), end="\n\n", flush=True)
        worst = max(worst, *(row.apart for row in rows))
    if worst > TOLERANCE:
        sys.exit(f"the figures are {worst:.2g} apart, more than {TOLERANCE:g}")
    print(f"The largest difference is {worst:.1e}; at most {TOLERANCE:g} is allowed.")


if __name__ == "__main__":
    main()
