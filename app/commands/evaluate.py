"""`nextword evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from model.runtimes import RUNTIMES

if TYPE_CHECKING:  # what only measuring needs is imported when something is measured, so that --help is quick
    from rich.console import Console
    from rich.table import Table

    from model.artifact import Artifact
    from model.evaluation import Evaluation
    from model.runtimes.base import Runtime

_MISSING = "-"


def command(
    model: Annotated[Path, typer.Argument(help="A model directory.", show_default=False)],
    data: Annotated[
        list[Path],
        typer.Option(
            help="A UTF-8 text file that the model was not trained on. Given several times, the files are read one "
            "after the other as one text.",
            show_default=False,
        ),
    ],
    runtime: Annotated[str, typer.Option(help=f"What computes: {', '.join(RUNTIMES)}.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to compute with.", show_default=False)] = None,
    words: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many words of the text.", show_default=False)
    ] = None,
    streams: Annotated[
        int,
        typer.Option(
            min=1,
            help="Read the text in so many pieces at once: faster, and not exact, for the words after a cut are "
            "predicted without what stood before it.",
        ),
    ] = 1,
    keystrokes: Annotated[
        bool, typer.Option("--keystrokes/--no-keystrokes", help="Whether to count the keys that suggestions save.")
    ] = True,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Write the figures into the model's config.json, from where the service tells its perplexity.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure how well a model predicts a text.

    Perplexity; recall: how often the next word is among the 1, 3, 5, 10 likeliest; keystroke savings: the share of keys
    that a typist saves who is offered three words and accepts one with one key. Each for all words, without words that
    the vocabulary lacks (<unk>), and without those and line ends (<eos>).

    The text is one sequence, read word by word as a session would be.

    \b
    nextword evaluate model/pretrained/english --data letters.txt
    nextword evaluate out/wikitext-2-small/model --data wikitext-2/test.txt --json > figures.json
    """
    from rich.console import Console

    from model.artifact import Artifact, ArtifactError
    from model.evaluation import EvaluationError
    from model.runtimes import RuntimeUnavailableError, load

    if runtime not in RUNTIMES:
        _stop(f"no runtime {runtime!r}; there are {', '.join(RUNTIMES)}")
    text = _read(data)
    progress = Console(stderr=True)
    try:
        artifact = Artifact.load(model)
        measured = _measure(
            artifact, load(artifact, runtime, threads=threads), text, words, streams, keystrokes, progress
        )
        result = {"data": [path.name for path in data], **measured.to_json()}
        if record:
            perplexity = next(iter(measured.figures.values())).perplexity
            Artifact.record(model, {"perplexity": perplexity, "evaluation": result})
    except (ArtifactError, EvaluationError, RuntimeUnavailableError) as error:
        _stop(str(error))
    if as_json:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        Console().print(table_of(measured))


def table_of(measured: Evaluation) -> Table:
    """A row a figure, a column a set of targets."""
    from rich.table import Table

    from model.evaluation import RECALL_AT, SUGGESTIONS

    speed = measured.words / measured.seconds
    inexact = "" if measured.streams == 1 else f" in {measured.streams} streams, so not exact"
    table = Table(
        title=f"{measured.model}, {measured.words:,} words{inexact}",
        caption=f"{measured.runtime} on {measured.device}, {speed:,.0f} words/s; calibration error "
        f"{measured.calibration_error:.1%}",
    )
    table.add_column("")
    for name in measured.figures:
        table.add_column(name, justify="right")
    figures = measured.figures.values()
    table.add_row("targets", *(f"{found.targets:,}" for found in figures))
    table.add_row("perplexity", *(f"{found.perplexity:,.2f}" for found in figures))
    table.add_row("bits a word", *(f"{found.bits:.3f}" for found in figures))
    for k in RECALL_AT:
        table.add_row(f"recall@{k}", *(f"{found.recall[k]:.1%}" for found in figures))
    savings = (found.keystroke_savings for found in figures)
    table.add_row(
        f"keystroke savings, {SUGGESTIONS} offered",
        *(_MISSING if share is None else f"{share:.1%}" for share in savings),
    )
    return table


def _measure(
    artifact: Artifact,
    runtime: Runtime,
    text: str,
    words: int | None,
    streams: int,
    keystrokes: bool,
    console: Console,
) -> Evaluation:
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    from model.evaluation import evaluate

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:,.0f} words/s")

    columns: tuple[Any, ...] = (BarColumn(), TextColumn("{task.percentage:>3.0f}%"), Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        return evaluate(
            artifact,
            runtime,
            text,
            words=words,
            streams=streams,
            keystrokes=keystrokes,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _read(paths: list[Path]) -> str:
    texts = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            _stop(f"{path}: not UTF-8 at byte {error.start}; save the text as UTF-8")
        except OSError as error:
            _stop(f"{path}: cannot be read: {error.strerror or error}")
        if not text.strip():
            _stop(f"{path}: there are no words in it")
        texts.append(text if text.endswith("\n") or len(paths) == 1 else text + "\n")
    return "".join(texts)


def _stop(reason: str) -> NoReturn:
    typer.echo(f"nextword evaluate: {reason}", err=True)
    raise typer.Exit(2)
