"""`nextword evaluate`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from app.commands import output
from model.adaptation import MOST_PAIRS, Adaptation
from model.runtimes import RUNTIMES

if TYPE_CHECKING:  # what only measuring needs is imported when something is measured, so that --help is quick
    from rich.console import Console

    from model.artifact import Artifact
    from model.measurement import Evaluation
    from model.runtimes.base import Runtime
    from model.tokenizer import Tokenizer

_WIDEST = 1 << 16  # columns: more than any table has


def command(
    model: Annotated[Path, typer.Argument(help="A model directory.", show_default=False)],
    data: Annotated[
        list[Path],
        typer.Option(
            help="A UTF-8 text file that the model was not trained on. Given several times, each file is a text of "
            "its own, and the figures are given for each and for all together.",
            show_default=False,
        ),
    ],
    runtime: Annotated[str, typer.Option(help=f"What computes: {', '.join(RUNTIMES)}.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to compute with.", show_default=False)] = None,
    words: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many words of each text.", show_default=False)
    ] = None,
    streams: Annotated[
        int,
        typer.Option(
            min=1,
            help="Read each text in so many pieces at once: faster, and not exact, for the words after a cut are "
            "predicted without what stood before it.",
        ),
    ] = 1,
    keystrokes: Annotated[
        bool, typer.Option("--keystrokes/--no-keystrokes", help="Whether to count the keys that suggestions save.")
    ] = True,
    adapt: Annotated[
        bool, typer.Option("--adapt", help="Adapt to each text while reading it, as a session that adapts does.")
    ] = False,
    adapt_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_PAIRS,
            help="--adapt: to so many of the last words; by default as the model says.",
            show_default=False,
        ),
    ] = None,
    adapt_theta: Annotated[
        float | None,
        typer.Option(
            help="--adapt: how much more those count that came where the network stood as it does now; above 0.",
            show_default=False,
        ),
    ] = None,
    adapt_weight: Annotated[
        float | None,
        typer.Option(
            help="--adapt: the share of those words in the probabilities (lambda), above 0 and below 1.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write DIR/evaluation.html: one page with tables and plots, by text, of how often it is right, "
            "how sure it is, and what it gets wrong.",
            show_default=False,
        ),
    ] = None,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Write the figures into the model's config.json, from where the service tells its perplexity: those "
            "of whole texts, read exactly, without --adapt.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure how well a model predicts a text.

    Perplexity; recall: how often the next word is among the 1, 3, 5, 10 likeliest; keystroke savings: the share of keys
    that a typist saves who is offered three words and accepts one with one key. Each for all words, without words that
    the vocabulary lacks (<unk>), and without those and line ends (<eos>).

    Each text is one sequence, read word by word as a session would be.

    \b
    nextword evaluate model/pretrained/english --data letters.txt
    nextword evaluate model/pretrained/english --data letters.txt --adapt
    nextword evaluate model/pretrained/english --data chats.txt --data books.txt --report out/report
    nextword evaluate out/wikitext-2-small/model --data wikitext-2/test.txt --json > figures.json
    """
    from rich.console import Console

    from model.artifact import Artifact, ArtifactError
    from model.evaluation import EvaluationError
    from model.runtimes import RuntimeUnavailableError, load

    if runtime not in RUNTIMES:
        _stop(f"no runtime {runtime!r}; there are {', '.join(RUNTIMES)}")
    own = {"size": adapt_size, "theta": adapt_theta, "weight": adapt_weight}
    if not adapt:
        _refuse({f"--adapt-{name}": value is not None for name, value in own.items()}, "does nothing without --adapt")
    if record:
        others = {"--adapt": adapt, "--words": words is not None, "--streams": streams > 1}
        _refuse(others, "and --record exclude each other: what a model says of itself is of whole texts, read exactly")
    write_report = None if report is None else _writer(report)
    texts = _read(data)
    progress = Console(stderr=True)
    try:
        artifact = Artifact.load(model)
        adaptation = _adapted(artifact.adaptation, own) if adapt else None
        loaded = load(artifact, runtime, threads=threads)
        measured = _measure(artifact, loaded, texts, words, streams, keystrokes, adaptation, progress)
        measured = replace(measured, words_limit=words)
    except (ArtifactError, EvaluationError, RuntimeUnavailableError) as error:
        _stop(str(error))
    # What cannot be written costs nothing else that was found; what is printed may, so it comes last.
    failed = []
    if report is not None and write_report is not None:
        try:
            typer.echo(f"report: {write_report(measured, artifact.tokenizer, report)}", err=True)
        except OSError as error:
            failed.append(f"{report}: the report cannot be written: {error.strerror or error}")
    if record:
        perplexity = next(iter(measured.together.figures.values())).perplexity
        try:
            Artifact.record(model, {"perplexity": perplexity, "evaluation": measured.to_json()}, of=artifact.id)
        except ArtifactError as error:
            failed.append(f"not recorded: {error}")
    try:
        with output.printing(_stop):
            if as_json:
                typer.echo(output.as_json(measured.to_json(), indent=2))
            else:
                _print(measured, Console(markup=False, emoji=False))
    finally:
        if failed:
            _stop("; ".join(failed))


def _refuse(given: Mapping[str, bool], why: str) -> None:
    """Stop if one of these options was given."""
    for option, is_given in given.items():
        if is_given:
            _stop(f"{option} {why}")


def _adapted(best: Adaptation, own: Mapping[str, Any]) -> Adaptation:
    try:
        return replace(best, **{name: value for name, value in own.items() if value is not None})
    except ValueError as error:
        _stop(f"--adapt: {error}")


def _writer(folder: Path) -> Callable[[Evaluation, Tokenizer, Path], Path]:
    """What writes a report in `folder`; what it lacks for that is missed before minutes of measuring, not after."""
    try:
        from model.reports.evaluation import write
    except ModuleNotFoundError as error:
        _stop(str(error))
    # The folder is made when there is something to write in it.
    there = next(at for at in (folder, *folder.absolute().parents) if os.path.lexists(at))
    if not there.is_dir():
        _stop(f"--report {folder}: {there} is no directory; name another DIR")
    if not os.access(there, os.W_OK | os.X_OK):
        _stop(f"--report {folder}: {there} cannot be written in; name another DIR")
    return write


def _print(measured: Evaluation, console: Console) -> None:
    """A table of all texts together and, where there are several, one with a row for each."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from model import tables

    together = measured.together
    speed = together.words / measured.seconds
    inexact = "" if measured.streams == 1 else f", in {measured.streams} streams, so not exact"
    how = measured.adaptation
    adapting = "" if how is None else f", adapting (size {how.size}, theta {how.theta:g}, weight {how.weight:g})"
    limited = "" if measured.words_limit is None else f", the first {measured.words_limit:,} of each text at most"
    titles = {
        f"{measured.model}, {together.words:,} words{limited}{adapting}{inexact}": tables.figures(together),
        **({"by text": tables.texts(measured)} if len(measured.texts) > 1 else {}),
    }
    for title, content in titles.items():
        table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        for at, name in enumerate(content.head):
            table.add_column(name, justify="right" if at else "left", no_wrap=bool(at), overflow="fold")
        for row in content.rows:
            table.add_row(*row)
        # A line that the terminal breaks is better than a figure that is cut.
        wide = console.options.update(max_width=_WIDEST)
        console.width = max(console.width, console.measure(table, options=wide).maximum)
        console.print(table)
    console.print(
        f"{measured.runtime} on {measured.device}, {speed:,.0f} words/s; calibration error "
        f"{tables.share(together.calibration.error)}",
        highlight=False,
    )


def _measure(
    artifact: Artifact,
    runtime: Runtime,
    texts: Mapping[str, str],
    words: int | None,
    streams: int,
    keystrokes: bool,
    adaptation: Adaptation | None,
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
            texts,
            words=words,
            streams=streams,
            keystrokes=keystrokes,
            adaptation=adaptation,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _read(paths: list[Path]) -> dict[str, str]:
    """The texts, by the names of their files; those whose names are the same, by their paths from where these part.

    What cannot be printed is escaped in them, and where that makes two the same, or one that of all together, they are
    numbered.
    """
    from model.tables import TOGETHER

    whole = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 - takes out "..", and follows no link
    texts: dict[str, str] = {}
    read = set()
    taken = {TOGETHER} if len(paths) > 1 else set()
    for path, at in zip(paths, whole, strict=True):
        given = _printable(path)
        if at.resolve() in read:
            _stop(f"{given}: given twice")
        read.add(at.resolve())
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            _stop(f"{given}: not UTF-8 at byte {error.start}; save the text as UTF-8")
        except OSError as error:
            _stop(f"{given}: cannot be read: {error.strerror or error}")
        if not text.strip():
            _stop(f"{given}: there are no words in it")
        folder = os.path.commonpath([other.parent for other in whole if other.name == at.name])
        named = _printable(at.relative_to(folder))
        numbered = (f"{named} ({number})" for number in count(2))
        name = next(each for each in chain([named], numbered) if each not in taken)
        taken.add(name)
        texts[name] = text
    return texts


def _printable(path: Path) -> str:
    """A path as text for a terminal and for a drawing, which some characters would break; it need not even be text."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _stop(reason: str) -> NoReturn:
    typer.echo(f"nextword evaluate: {reason}", err=True)
    raise typer.Exit(2)
