"""`nextword predict`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from app.commands import output
from app.settings import SHIPPED_MODEL
from model.runtimes import RUNTIMES

if TYPE_CHECKING:  # imported when there is something to predict, so that --help is quick
    from rich.console import Console

    from model.artifact import Artifact
    from model.runtimes.base import Runtime

#: A line that begins a new text.
ANEW = "/new"

_WIDTH = 30  # columns of the longest bar
_HINT = (
    "Type words and press Enter: what may come next is shown, and the next line goes on. "
    f"{ANEW} begins anew, Ctrl-D ends."
)


def command(
    model: Annotated[
        Path, typer.Argument(help="A model directory; by default the one that ships.", show_default=False)
    ] = SHIPPED_MODEL,
    text: Annotated[
        str | None,
        typer.Option(
            help='Predict what follows this text, and end; "" is the beginning of a text.', show_default=False
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, max=1000, help="How many predictions.")] = 10,
    runtime: Annotated[str, typer.Option(help=f"What computes: {', '.join(RUNTIMES)}.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to compute with.", show_default=False)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each text instead of bars.")
    ] = False,
) -> None:
    """Predict the next word in the terminal.

    Without --text it asks for words, line by line, and each line goes on where the one before ended. Lines can be piped
    in, too. Probabilities are over the whole vocabulary.

    \b
    nextword predict
    nextword predict --text "The weather is" --top-k 3
    echo "The weather is" | nextword predict --json
    """
    from rich.console import Console

    from model.artifact import Artifact, ArtifactError
    from model.runtimes import RuntimeUnavailableError, load

    if runtime not in RUNTIMES:
        _stop(f"no runtime {runtime!r}; there are {', '.join(RUNTIMES)}")
    try:
        artifact = Artifact.load(model)
        loaded = load(artifact, runtime, threads=threads)
    except (ArtifactError, RuntimeUnavailableError) as error:
        _stop(str(error))
    console = Console()
    reading = Reading(artifact, loaded)
    with output.printing(_stop):
        for line in [text] if text is not None else _lines(console, asks=not as_json and sys.stdin.isatty()):
            if text is None and line.strip() == ANEW:
                reading = Reading(artifact, loaded)
                continue
            unknown = reading.read(line)
            if as_json:
                typer.echo(output.as_json(reading.to_json(top_k)))
            else:
                reading.show(console, top_k, unknown)


class Reading:
    """A text as far as it has been read."""

    def __init__(self, artifact: Artifact, runtime: Runtime) -> None:
        self._artifact = artifact
        self._tokenizer = artifact.tokenizer
        self._runtime = runtime
        self._state = runtime.zero_state(1)
        self._position = 0
        if artifact.start_id is not None:
            self._advance(artifact.start_id)

    def read(self, text: str) -> list[str]:
        """Go on with a text; the words of it that the model does not know."""
        encoding = self._tokenizer.encode(text)
        for id in encoding.ids.tolist():
            self._advance(id)
        self._position += len(encoding.ids)
        spans = zip(encoding.ids.tolist(), encoding.starts.tolist(), encoding.ends.tolist(), strict=True)
        return [text[start:end] for id, start, end in spans if id == self._tokenizer.unknown_id]

    def predictions(self, top_k: int) -> list[tuple[str, float, float]]:
        """The likeliest words, with probability and log-probability; <unk> is left out."""
        from model import decoding

        width = decoding.candidates(top_k, self._runtime.vocabulary_size, include_unknown=False)
        found = self._runtime.project(self._state[-1], top_k=width)
        ids, values = found.top_ids[0].tolist(), found.top_log_probabilities[0].tolist()
        best = decoding.ranking(ids, values, top_k, without=self._tokenizer.unknown_id)
        return [(self._tokenizer.word_of(id), probability, value) for id, probability, value in best]

    def to_json(self, top_k: int) -> dict[str, Any]:
        """As the service answers."""
        return {
            "position": self._position,
            "model": self._artifact.id,
            "predictions": [
                {"word": word, "probability": probability, "log_probability": value}
                for word, probability, value in self.predictions(top_k)
            ],
        }

    def show(self, console: Console, top_k: int, unknown: list[str]) -> None:
        """Bars, the longest one for the likeliest word."""
        from rich.bar import END_BLOCK_ELEMENTS, FULL_BLOCK, Bar
        from rich.table import Table
        from rich.text import Text

        if unknown:
            console.print(Text(f"not in the vocabulary: {', '.join(unknown)}", style="yellow"))
        best = self.predictions(top_k)
        table = Table.grid(padding=(0, 2, 0, 0))
        for word, probability, _ in best:
            bar: Bar | str = Bar(best[0][1], 0, probability, width=_WIDTH, color="cyan")
            if not output.can_show(FULL_BLOCK + "".join(END_BLOCK_ELEMENTS)):
                bar = "#" * round(_WIDTH * probability / best[0][1])
            table.add_row(Text(word, style="bold"), Text(f"{probability:.1%}", justify="right"), bar)
        console.print(table)

    def _advance(self, id: int) -> None:
        import numpy as np

        self._state = self._runtime.advance(np.array([id], np.int64), self._state)


def _lines(console: Console, *, asks: bool) -> Iterator[str]:
    """What is typed or piped in, line by line, until it ends."""
    if not asks:
        try:
            for line in sys.stdin:
                yield line.removesuffix("\n").removesuffix("\r")
        except OSError as error:
            _stop(f"standard input cannot be read: {error.strerror or error}")
        return
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives `input` its line editing
    console.print(_HINT, style="dim", highlight=False)
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        yield line


def _stop(reason: str) -> NoReturn:
    typer.echo(f"nextword predict: {reason}", err=True)
    raise typer.Exit(2)
