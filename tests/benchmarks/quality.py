"""The quality benchmark: the model that ships against a Kneser-Ney 5-gram, on documents that both have never seen.

The 5-gram is estimated from the very words that the model was trained on, in the same vocabulary, and both are measured
by `model.evaluation` on the documents that the training held out, a text for each kind. Documents that a recipe reads
several times in an epoch count once: smoothing goes by how many n-grams were met once, and copies leave none.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

import model.runtimes
from model.artifact import Artifact
from model.evaluation import evaluate
from model.measurement import ALL, Evaluation, Measurement
from model.runtimes.base import Runtime
from model.training.data import prepare
from model.training.folder import HELD_OUT
from model.training.recipe import Recipe
from tests.benchmarks import models, report
from tests.benchmarks.harness import BenchmarkError
from tests.benchmarks.peers.kneser_ney import KneserNey

ORDER = 5
TOGETHER = "together"


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    evaluation: Evaluation

    def of(self, text: str) -> Measurement:
        return self.evaluation.together if text == TOGETHER else self.evaluation.texts[text]


def run(command: str, *, chosen: Path | None, data: Path | None, words: int) -> str:
    """The section. `data` is the folder of the texts that the model's recipe names; of each held-out text the first
    `words` words are read. Raises BenchmarkError."""
    if data is None:
        raise BenchmarkError("--data FOLDER is needed: the texts that the model was trained on")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="nextword-quality-") as folder:
        directory = Path(folder)
        measured = models.shipped(directory, chosen)
        artifact = Artifact.load(measured.path)
        used = Recipe.model_validate(artifact.training["recipe"])
        text = prepare(_each_once(used), data, directory / "data", resume=False, console=console)
        if text.tokenizer.vocabulary != artifact.tokenizer.vocabulary:
            raise BenchmarkError(f"{data} gives another vocabulary than that of {artifact.id}: not its training text")
        texts = {
            path.stem: path.read_text(encoding="utf-8") for path in sorted((directory / "data" / HELD_OUT).iterdir())
        }
    with console.status(f"counting {len(text.train):,} words"):
        grams = KneserNey(text.train.astype(np.int64), len(artifact.tokenizer), ORDER)
    contenders = [
        Contender(name, _measured(artifact, runtime, texts, words, console))
        for name, runtime in (
            (artifact.id, model.runtimes.load(artifact, "cpu")),  # what serves where there is no GPU
            (f"{ORDER}-gram, modified Kneser-Ney", grams),
        )
    ]
    mean_of = [one["model"] for one in artifact.training.get("mean_of", [])]
    return _section(command, measured, contenders, trained=len(text.train), used=used, mean_of=mean_of)


def _each_once(recipe: Recipe) -> Recipe:
    """The recipe without copies of documents."""
    documents = {name: use.model_copy(update={"copies": 1}) for name, use in (recipe.data.documents or {}).items()}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"documents": documents or None})})


def _measured(artifact: Artifact, runtime: Runtime, texts: dict[str, str], words: int, console: Console) -> Evaluation:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(runtime.name, total=None)
        return evaluate(
            artifact,
            runtime,
            texts,
            words=words,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _section(
    command: str,
    measured: models.Measured,
    contenders: list[Contender],
    *,
    trained: int,
    used: Recipe,
    mean_of: list[str],
) -> str:
    ours, grams = contenders
    often = [f"{name} {use.copies}" for name, use in (used.data.documents or {}).items() if use.copies > 1]
    copies = f", reading {', '.join(often)} times in each" if often else ""
    begun = "" if used.base_model is None else f", beginning with the weights of {used.base_model}"
    mean = f". Its weights are the mean of those of {' and '.join(mean_of)}, the first so trained" if mean_of else ""
    names = [*ours.evaluation.texts, TOGETHER]
    share = {name: _perplexity(ours, name) / _perplexity(grams, name) for name in names}
    worst = max(names, key=lambda name: share[name])
    ahead = {
        "recall@3": min(_recall(ours, name) - _recall(grams, name) for name in names),
        "keystroke savings": min(_savings(ours, name) - _savings(grams, name) for name in names),
    }
    aims = [
        report.Aim("perplexity over the 5-gram's, all texts together", share[TOGETHER], 0.7, least=False),
        report.Aim(f"the same where it is worst ({worst})", share[worst], 0.7, least=False),
        *(
            report.Aim(f"{what} above the 5-gram's in every text, least", 100 * value, 0.0, unit=" points")
            for what, value in ahead.items()
        ),
    ]
    rows = []
    for name in names:
        cells = [name, f"{ours.of(name).words:,}", report.number(share[name])]
        for contender in contenders:
            cells += [
                f"{_perplexity(contender, name):,.1f}",
                f"{_recall(contender, name):.1%}",
                f"{_savings(contender, name):.1%}",
                f"{contender.of(name).calibration.error:.1%}",
            ]
        rows.append(cells)
    figures = ("perplexity", "recall@3", "keys saved", "calibration error")
    head = [
        "text",
        "words",
        "perplexity, ratio",
        *(f"{who}: {figure}" for who in ("model", "5-gram") for figure in figures),
    ]
    return "\n\n".join(
        [
            "## Quality: the model against an n-gram model",
            "\n".join(
                [report.circumstances(command, ("numpy", "onnxruntime"), timed=False), f"- {measured.description}"]
            ),
            f"The 5-gram was counted in all {trained:,} words of the training text, of which the model was trained for "
            f"{used.training.epochs:g} epochs{copies}{begun}{mean}. Both have the same vocabulary and read the same "
            "documents, held out by a hash of their text; each kind is one sequence. All words count, `<unk>` and line "
            "ends included. The model runs as it is served by default.",
            "\n".join(aim.line() for aim in aims),
            report.table(head, rows),
        ]
    )


def _perplexity(contender: Contender, name: str) -> float:
    return contender.of(name).figures[ALL].perplexity


def _recall(contender: Contender, name: str) -> float:
    return contender.of(name).figures[ALL].recall[3]


def _savings(contender: Contender, name: str) -> float:
    savings = contender.of(name).figures[ALL].keystroke_savings
    assert savings is not None
    return savings
