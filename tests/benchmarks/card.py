"""`python -m tests.benchmarks.card MODEL --held-out FOLDER`: measure a model anew and write it into its card.

The card keeps its prose and the heads of its tables; their rows are replaced. The figures also go into the model's
config.json, from where the service tells its perplexity, and the reliability curve into docs/reliability.svg. The id of
the model changes with them.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx2
import matplotlib
import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID

import model.runtimes
from model.adaptation import Adaptation
from model.artifact import CARD, Artifact
from model.evaluation import evaluate
from model.measurement import ALL, BINS, WITHOUT_UNKNOWN, Evaluation, Measurement
from model.reports.evaluation import reliability
from model.runtimes.base import Runtime
from model.tokenizer import Tokenizer
from tests.benchmarks import report
from tests.benchmarks.servers import Server, free_port, nextword

#: Of kinds that would outweigh the others: the words that are read.
FIRST_WORDS = {"books-1880-1925": 20_000}
#: Rows of the tables of mistakes.
_MOST = 12
#: How the continuations are drawn; the seed is the row's.
_SAMPLING = {"max_words": 20, "temperature": 0.8, "top_p": 0.9}

Rows = list[list[str]]


def measure(
    artifact: Artifact, runtime: Runtime, texts: Mapping[str, str], adaptation: Adaptation | None, console: Console
) -> Evaluation:
    """All of `texts`, by kind, as one evaluation."""
    groups = [
        ({name: text for name, text in texts.items() if name not in FIRST_WORDS}, None),
        *(({name: texts[name]}, words) for name, words in FIRST_WORDS.items() if name in texts),
    ]
    found: list[Evaluation] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for group, words in groups:
            task = bar.add_task(", ".join(group), total=None)
            told = partial(_tell, bar, task)
            found.append(evaluate(artifact, runtime, group, words=words, adaptation=adaptation, progress=told))
    measured = {name: measurement for each in found for name, measurement in each.texts.items()}
    return replace(
        found[0], texts={name: measured[name] for name in texts}, seconds=sum(each.seconds for each in found)
    )


def _tell(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def by_kind(plain: Evaluation, adapting: Evaluation) -> Rows:
    """A row a kind of text, and one for all together."""
    rows = [_kind(name, plain.texts[name], adapting.texts[name]) for name in plain.texts]
    return [*rows, _kind("**together**", plain.together, adapting.together)]


def _kind(name: str, plain: Measurement, adapting: Measurement) -> list[str]:
    found, adapted = plain.figures[ALL], adapting.figures[ALL]
    without_unknown = plain.figures[WITHOUT_UNKNOWN].perplexity
    return [
        name,
        f"{plain.words:,}",
        f"{found.perplexity:,.1f}",
        f"{without_unknown:,.1f}",
        _share(found.recall[1]),
        _share(found.recall[3]),
        _share(found.keystroke_savings or 0.0),
        _share(plain.calibration.error),
        f"{adapted.perplexity:,.1f}",
        _share(adapted.recall[3]),
        _share(adapted.keystroke_savings or 0.0),
        _share(adapting.calibration.error),
    ]


def calibration(measured: Measurement) -> Rows:
    """A row a tenth of the probability that the likeliest word was said to have."""
    found, rows = measured.calibration, []
    for at in range(BINS):
        if count := found.counts[at]:
            said = f"{100 * at // BINS} to {100 * (at + 1) // BINS} %"
            rows.append([said, f"{count:,.0f}", _share(found.said[at] / count), _share(found.right[at] / count)])
    return rows


def mistakes(measured: Measurement, tokenizer: Tokenizer) -> Rows:
    """The commonest: what came, what was likeliest, how often, and of how many."""
    return [
        [*map(_code, map(tokenizer.word_of, pair)), f"{count:,}", f"{100 * count / measured.words:.2f} %"]
        for pair, count in measured.mistakes.most_common(_MOST)
    ]


def costs(measured: Measurement, tokenizer: Tokenizer) -> Rows:
    """The words on which most of the likelihood is lost: how often they came, bits each, share of all bits."""
    return [
        [
            _code(tokenizer.word_of(int(id))),
            f"{measured.counts[id]:,.0f}",
            f"{measured.costs[id] / measured.counts[id] / math.log(2):.2f}",
            _share(measured.costs[id] / measured.costs.sum()),
        ]
        for id in np.argsort(-measured.costs, kind="stable")[:_MOST]
    ]


def continuations(beginnings: Iterable[str], say: Callable[[str, int], str]) -> Rows:
    """The first that `say` gives for each beginning and seed, line ends as ¶."""
    return [
        [beginning, " ".join(say(beginning, seed).replace("\n", " ¶ ").replace("|", r"\|").split())]
        for seed, beginning in enumerate(beginnings)
    ]


def cells(card: str, head: Sequence[str]) -> Rows:
    """The rows of the table whose head begins with `head`. Raises ValueError if there is not exactly one."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in _table(card, head)["rows"].splitlines()]


def filled(card: str, head: Sequence[str], rows: Rows) -> str:
    """`card` with other rows in that table. Raises ValueError as `cells` does."""
    found = _table(card, head)
    lines = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    return card[: found.start("rows")] + lines + card[found.end("rows") :]


def _table(card: str, head: Sequence[str]) -> re.Match[str]:
    begins = re.escape("| " + " | ".join(head) + " |")
    found = list(re.finditer(rf"^{begins}[^\n]*\n\|[ :|-]+\|\n(?P<rows>(?:\|[^\n]*\n)*)", card, re.MULTILINE))
    if len(found) != 1:
        raise ValueError(f"{len(found)} tables of the card begin with the columns {', '.join(head)}; one is needed")
    return found[0]


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _code(word: str) -> str:
    return f"`{word}`".replace("|", r"\|")


def _said(port: int, text: str, seed: int) -> str:
    url = f"http://127.0.0.1:{port}/v1/generate"
    reply = httpx2.post(url, json={"text": text, "seed": seed, **_SAMPLING}, timeout=60).raise_for_status()
    answer: str = reply.json()["text"]
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.card", description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="a model directory")
    parser.add_argument("--held-out", type=Path, required=True, help="the folder held-out/ of its training")
    parser.add_argument("--curve", type=Path, default=report.ROOT / "docs" / "reliability.svg")
    options = parser.parse_args()
    console = Console(stderr=True)

    artifact = Artifact.load(options.model)
    kinds = [Path(name).stem for name in artifact.training["recipe"]["data"]["documents"]]
    texts = {kind: (options.held_out / f"{kind}.txt").read_text(encoding="utf-8") for kind in kinds}
    runtime = model.runtimes.load(artifact, "cpu")  # what serves where there is no GPU
    plain = measure(artifact, runtime, texts, None, console)
    adapting = measure(artifact, runtime, texts, artifact.adaptation, console)
    together = plain.together

    card = artifact.card
    port = free_port()
    with Server(nextword(port, options.model), port) as server:
        server.wait_ready()
        beginnings = [row[0] for row in cells(card, ["beginning"])]
        tables = {
            ("file", "words"): by_kind(plain, adapting),
            ("said", "words"): calibration(together),
            ("what came",): mistakes(together, artifact.tokenizer),
            ("word", "times"): costs(together, artifact.tokenizer),
            ("beginning",): continuations(beginnings, partial(_said, port)),
        }
    for head, rows in tables.items():
        card = filled(card, head, rows)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": artifact.name}):  # letters stay text
        reliability(together.calibration).savefig(options.curve, metadata={"Date": None})
    measured = {"perplexity": together.figures[ALL].perplexity, "evaluation": plain.to_json()}
    Artifact.record(options.model, measured, of=artifact.id)
    (options.model / CARD).write_text(card, encoding="utf-8")
    print(Artifact.load(options.model).id)


if __name__ == "__main__":
    main()
