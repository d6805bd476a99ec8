"""`nextword import`."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from app.commands import output


class Start(StrEnum):
    """Where an empty session stands."""

    END = "end"
    ZEROS = "zeros"


class Policy(StrEnum):
    """How text becomes words: `model.tokenizer.POLICIES` says what each does."""

    SPLIT = "split"
    ENGLISH = "english"


def command(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.npz",
            help="What Chainer's save_npz wrote: a network, a Classifier of one, or a Trainer's snapshot.",
            show_default=False,
        ),
    ],
    vocabulary: Annotated[
        Path,
        typer.Option(
            help="The words the network was trained on, in UTF-8: one a line in the order of their ids, a JSON list, "
            'or a JSON object {"word": id, ...}.',
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The model directory to make.", show_default=False)],
    name: Annotated[
        str | None, typer.Option(help="The model's name; by default that of the directory.", show_default=False)
    ] = None,
    policy: Annotated[
        Policy,
        typer.Option(
            help="How text becomes words: split takes what stands between blanks as it is, for networks trained on "
            "text that was split beforehand (Penn Treebank, WikiText); english splits text as people type it."
        ),
    ] = Policy.SPLIT,
    unknown: Annotated[
        str | None,
        typer.Option(
            help="The word that stands for unknown words, if it is not called <unk>, UNK or the like.",
            show_default=False,
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            help="The word that stands for the end of a sentence or line, if it is not called <eos>, </s> or the like.",
            show_default=False,
        ),
    ] = None,
    add_unknown: Annotated[
        bool,
        typer.Option("--add-unknown", help="The vocabulary has no word for unknown words: add one, never predicted."),
    ] = False,
    start: Annotated[
        Start,
        typer.Option(help="An empty session stands after an end of sentence, if there is such a word, or at zeros."),
    ] = Start.END,
    prefix: Annotated[
        str | None,
        typer.Option(
            help="What stands before the names of the network's arrays, where a file holds several networks.",
            show_default=False,
        ),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in 16 bits: half the size.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the model that is in --out.")] = False,
) -> None:
    """Make a model directory of a checkpoint that Chainer saved elsewhere.

    Known are the two-layer LSTM of Chainer's examples/ptb (embed/W, l1/upward/W, l1/upward/b, l1/lateral/W, l2/...,
    l3/W, l3/b), the simple recurrent network (embed/W, l1/W, l1/b, r1/W, r1/b, l2/W, l2/b), and this program's own
    networks. Which one it is, and how large, follows from the arrays. Nothing in the file is unpickled.

    \b
    The words of the ptb example, for --vocabulary:
    python -c "import chainer, json; json.dump(chainer.datasets.get_ptb_words_vocabulary(), open('ptb.json', 'w'))"

    \b
    nextword import model_iter_39000.npz --vocabulary ptb.json --out models/ptb
    nextword serve --model models/ptb
    """
    from model.artifact import CONFIG, NAME, NAMED, ArtifactError
    from model.checkpoint import CheckpointError
    from model.importing import import_checkpoint

    if name is not None and not NAME.fullmatch(name):
        _stop(f"--name {name!r}: {NAMED}")
    if (out / CONFIG).exists() and not replace:
        _stop(f"{out}: there is a model already; give --replace to replace it")
    try:
        artifact = import_checkpoint(
            checkpoint,
            vocabulary,
            out,
            name=_name_of(out) if name is None else name,
            policy=policy.value,
            unknown=unknown,
            end=end,
            add_unknown=add_unknown,
            start="end" if start is Start.END else "zeros",
            prefix=prefix,
            dtype="float16" if half else "float32",
        )
    except (CheckpointError, ArtifactError) as error:
        _stop(str(error))
    sizes = ", ".join(f"{key} {value}" for key, value in artifact.network.items() if key != "kind")
    with output.printing(_stop):
        typer.echo(f"{artifact.id}: {artifact.network['kind']}, {sizes}, {artifact.parameters:,} parameters")
        typer.echo(f"nextword serve --model {out}")


def _name_of(out: Path) -> str:
    """The directory's name with nothing in it that a model's name may not have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", out.resolve().name).lstrip("-._")[:64] or "imported"


def _stop(reason: str) -> NoReturn:
    typer.echo(f"nextword import: {reason}", err=True)
    raise typer.Exit(2)
