"""`nextword train`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from model.training.processes import Processes

#: Exit status when there can be no training, or no more of it: recipe, text, device, disk, divergence.
CANNOT_TRAIN = 2
#: Exit status after Ctrl-C or SIGTERM, as shells have it.
INTERRUPTED = 130


def command(
    recipe: Annotated[
        str, typer.Option(help="A recipe that comes with nextword (see --list), or a .toml file of yours.")
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option(
            help="The folder that holds the recipe's files, or one UTF-8 text file to train on instead of them: of its "
            "words those that come twice, up to as many as the recipe says; all where it says none."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where snapshot, log, plots and the model go. Default: out/RECIPE."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, or cuda:0, cuda:1, ... auto is a GPU if one answers.")
    ] = "auto",
    tf32: Annotated[
        bool,
        typer.Option(
            "--tf32",
            help="On a GPU: tensor cores multiply, factors rounded to 10 bits (TF32). To go on with --resume, say it "
            "again.",
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the snapshot in --out, on the text kept there.")
    ] = False,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="One of the processes that mpiexec has started; they share the work of each batch. CPU only.",
        ),
    ] = False,
    base_model: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Fine-tune: begin with the weights of this model directory, whose network and vocabulary take the "
            "place of the recipe's. To go on with --resume, name it again.",
            show_default=False,
        ),
    ] = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="Show the recipes and stop.")] = False,
) -> None:
    """Train a model in Chainer by a recipe.

    Writes a snapshot every two minutes and on Ctrl-C (a second Ctrl-C stops at once); --resume goes on from it and
    ends with the same weights as if nothing had happened: on a CPU to the bit, on a GPU but for the order of some sums.
    The model is then in OUT/model: nextword serve --model
    OUT/model. What is held out for nextword evaluate is in OUT/held-out: whole documents, which
    blank lines set apart; of a text of yours only if it has some hundreds of them.

    \b
    nextword train --recipe simple-sequence
    nextword train --recipe wikitext-2-small --data wikitext-2/
    nextword train --recipe english-small --data my-archive.txt --out out/mine
    nextword train --recipe english-small --data letters.txt --base-model model/pretrained/english --out out/letters
    mpiexec -hosts one,two -n 2 nextword train --distributed --recipe english-small --data my-archive.txt
    """
    from rich.console import Console

    from model.artifact import Artifact, ArtifactError
    from model.corpus import CorpusError
    from model.devices import cuda_failure, no_cuda_expected
    from model.training import recipe as recipes
    from model.training.processes import MPIError, MPIProcesses, Processes

    if list_recipes:
        for name in recipes.names():
            typer.echo(f"{name}: {recipes.load(name).description}")
        return
    if not recipe:
        raise typer.BadParameter(f"name one of {', '.join(recipes.names())}, or a .toml file", param_hint="--recipe")
    try:
        from model.training.data import prepare
        from model.training.folder import MODEL, FolderError, claimed
        from model.training.heap import keep_freed_memory
        from model.training.trainer import TrainingError, open_device, train

        if distributed and device not in ("auto", "cpu"):
            raise MPIError(f"--distributed trains on CPUs, not on {device!r}: leave --device out")
        processes = MPIProcesses() if distributed else Processes()
    except (ModuleNotFoundError, MPIError) as error:
        _stop(str(error))
    # Rich's own line breaks would cut the lines of a log.
    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not processes.first)
    keep_freed_memory()
    with processes.one_fate(), ExitStack() as claims:
        try:
            chosen = processes.share(lambda: recipes.load(recipe))
            base = processes.share(lambda: None if base_model is None else Artifact.load(base_model))
            if base is not None:
                chosen = chosen.continuing(base, own_text=data is not None)
            if tf32:
                chosen = chosen.rounding()
            folder = out if out is not None else Path("out") / chosen.name
            chainer_device = open_device("cpu" if distributed else device, tf32=chosen.training.tf32)
            failure = cuda_failure()
            if device == "auto" and failure and not no_cuda_expected() and not distributed:
                console.print(f"training on the CPU: {failure}", markup=False)
            processes.share(lambda: claims.enter_context(claimed(folder)))
            vocabulary = None if base is None else base.tokenizer
            prepared = processes.share(
                lambda: prepare(chosen, data, folder, resume=resume, console=console, vocabulary=vocabulary)
            )
            if base is not None:
                console.print(
                    f"fine-tuning {base.id}: its network and its {len(base.tokenizer):,} words take the place of those "
                    f"of the recipe {chosen.name}",
                    markup=False,
                )
            artifact = train(
                chosen,
                prepared,
                folder,
                device=chainer_device,
                resume=resume,
                console=console,
                processes=processes,
                base=base,
            )
        except (recipes.RecipeError, CorpusError, FolderError, TrainingError, ArtifactError) as error:
            _stop(str(error), processes)
        except MemoryError as error:
            _stop(
                f"there is not enough memory for it: {' '.join(str(error).split())}. Take a smaller batch_size, window "
                "or network in a copy of the recipe; what was in the folder before is whole",
                processes,
            )
        except KeyboardInterrupt:
            _stop("stopped at once; what was in the folder before is whole", processes, INTERRUPTED)
    if artifact is None:
        raise typer.Exit(INTERRUPTED)
    if processes.first:
        typer.echo(f"{artifact.id} is in {folder / MODEL}; try: nextword serve --model {folder / MODEL}")


def _stop(reason: str, processes: Processes | None = None, status: int = CANNOT_TRAIN) -> NoReturn:
    who = "" if processes is None or processes.size == 1 else f" (process {processes.rank} of {processes.size})"
    typer.echo(f"nextword train{who}: {reason}", err=True)
    if processes is not None:
        processes.abort(status)
    raise typer.Exit(status)
