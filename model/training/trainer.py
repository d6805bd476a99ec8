"""A whole training: recipe and text in, model directory out; stopped at any moment and resumed, the same weights."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console

from model.artifact import Artifact, ArtifactError
from model.compat import chainer
from model.cuda.cublas import CublasError
from model.cuda.device import cupy_device
from model.devices import cuda_device_count, cuda_failure
from model.networks import NextWordNetwork, build
from model.networks.awd_lstm import AWDLSTM
from model.reports import training as report
from model.training import snapshot
from model.training.adam import Adam
from model.training.averaging import WeightAveraging
from model.training.batches import ParallelSequentialIterator
from model.training.data import TrainingData
from model.training.extensions import At, LearningRate, Snapshot, Validation
from model.training.folder import MODEL, SNAPSHOT
from model.training.processes import GradientAveraging, Processes
from model.training.progress import ProgressBar, write_log
from model.training.recipe import Recipe, Training
from model.training.sampling import CandidateSampler
from model.training.updater import DivergedError, GradientClipping, TruncatedBPTTUpdater

#: Entries of the log (and points of the curves) in a whole training.
_LOG_ENTRIES = 200
#: cuRAND's number of the generator Philox 4x32-10 (Salmon et al. 2011).
_PHILOX = 161


class TrainingError(RuntimeError):
    """A training that cannot start or go on; one line that says why, and what was kept."""


def open_device(name: str, *, tf32: bool = False) -> Any:
    """The Chainer device for "auto", "cpu" or "cuda:N".

    tf32: whether the factors of a CUDA device's matrix products are rounded to 10 bits. Raises TrainingError for a
    device that does not answer, or that does not round.
    """
    count = cuda_device_count()
    if name == "auto":
        name = "cuda:0" if count else "cpu"
    if name == "cpu":
        if tf32:
            raise TrainingError("--tf32 is for a CUDA device, and the training would run on the cpu: leave it out")
        return chainer.get_device("@numpy")
    kind, _, index = name.partition(":")
    if kind != "cuda" or not index.isdecimal():
        raise TrainingError(f"no device {name!r}: choose auto, cpu, or cuda:0, cuda:1, ...")
    if int(index) >= count:
        raise TrainingError(
            f"device {name} does not answer: {cuda_failure() or f'{count} CUDA devices found'}. Choose auto or cpu, or "
            "see that the driver runs and CuPy is installed"
        )
    try:
        device = chainer.get_device(f"@cupy:{int(index)}")
        device.use()
        cupy_device(int(index)).tf32 = tf32
        # Reseeded at each update, for which CuPy's default generator takes long: its state is far larger.
        device.xp.random.set_random_state(device.xp.random.RandomState(method=_PHILOX))
        # A kernel and a product: what they need may be missing where a driver answers.
        ones = device.xp.ones((2, 2), np.float32)
        (ones @ (ones + 1)).get()
    except Exception as error:  # of the driver, cuBLAS, cuRAND, the compiler, or Chainer, which says "not available"
        raise TrainingError(
            f"device {name} answers, and cannot compute: {' '.join(str(error).split())}. Choose --device cpu, or see "
            "that CuPy is whole: pip install 'nextword[cuda13]'"
        ) from error
    return device


def _of_device(error: BaseException) -> bool:
    """Whether CuPy, or what it stands on, has raised it, and not for want of memory."""
    raised = type(error).__module__.startswith("cupy") or isinstance(error, CublasError)
    return raised and not isinstance(error, MemoryError)


def train(
    recipe: Recipe,
    data: TrainingData,
    out: Path,
    *,
    device: Any,
    resume: bool,
    console: Console,
    processes: Processes | None = None,
    base: Artifact | None = None,
    snapshot_seconds: float = 120.0,
) -> Artifact | None:
    """Train and write `out/model`; returns it, or None when it was interrupted (a snapshot is then in `out`).

    With `base`, whose vocabulary `data` has and whose network `recipe`, the weights are those of that model at first,
    and texts start as its do.
    With `resume` goes on from `out/snapshot.npz`, or from the start where none was saved yet. Leaves there the
    snapshot, Chainer's `log`, and `training.html`, `loss.png` and `perplexity.png`, redrawn at each validation. Raises
    TrainingError, and ValueError for a text that is too short for the recipe.
    """
    processes = processes or Processes()
    settings = recipe.training
    if settings.batch_size % processes.size:
        raise TrainingError(
            f"a batch of {settings.batch_size} streams cannot be divided evenly among {processes.size} processes: "
            "change their number, or training.batch_size in a copy of the recipe"
        )
    chainer.global_config.dtype = np.float32
    np.random.seed(settings.seed)  # Chainer's initialisers draw from the global generator
    start = data.start if base is None else base.start
    network = _network(recipe, len(data.tokenizer))
    if base is not None:
        for name, weight in network.weights.items():
            weight[...] = base.weights[name]
    network.to_device(device)
    processes.set_out(network)
    iterator = ParallelSequentialIterator(
        data.train,
        settings.batch_size,
        settings.window,
        processes=processes,
        jitter=settings.seed if settings.jitter else None,
    )
    optimizer, clipping = _optimizer(settings, network, processes)
    total = iterator.windows_in(settings.epochs)
    updater = TruncatedBPTTUpdater(
        iterator,
        optimizer,
        clipping,
        seed=settings.seed,
        sampler=_sampler(data, settings, iterator.batch_size),
        sampled_until=round(total * settings.full_softmax_from),
        device=device,
        processes=processes,
    )
    with _interruptible() as interrupted:

        def finished(trainer: Any) -> bool:
            return trainer.updater.iteration >= total or processes.any(interrupted())

        trainer = chainer.training.Trainer(updater, finished, out=str(out) if processes.first else ".")
        # No trigger keeps anything in a snapshot, and of the extensions only LogReport and WeightAveraging do: the
        # others may change freely.
        trainer.extend(LearningRate(settings, total), trigger=At(1, total))
        trainer.extend(Snapshot(snapshot_seconds, processes), trigger=At(1, total))
        averaging = _averaging(network, settings, total)
        log = _look_on(trainer, data, recipe, total, averaging, start, console) if processes.first else None
        try:
            if processes.share(lambda: resume and (out / SNAPSHOT).exists()):
                snapshot.load(out / SNAPSHOT, trainer, processes)
            if resume:
                console.print(f"going on at iteration {updater.iteration:,} of {total:,}")
            if updater.iteration >= total and (artifact := processes.share(lambda: _written(out))) is not None:
                return artifact
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the updater looks for itself
                trainer.run(show_loop_exception_msg=False)
            if updater.iteration >= total:
                _check_range(network)
            snapshot.save(out / SNAPSHOT, trainer, processes)
            if updater.iteration < total:
                console.print(
                    f"interrupted at iteration {updater.iteration:,} of {total:,}; --resume goes on from there"
                )
                return None
            return processes.share(lambda: _write_model(recipe, network, data, averaging, start, log, out))
        except DivergedError as error:
            kept = f"; {out / SNAPSHOT} is from before and whole" if (out / SNAPSHOT).exists() else ""
            raise TrainingError(
                f"the training diverged: {error}. Start again in another --out, with a lower learning_rate or a "
                f"smaller gradient_clipping in the recipe{kept}"
            ) from error
        except snapshot.SnapshotError as error:
            raise TrainingError(str(error)) from error
        except OSError as error:
            raise TrainingError(f"cannot write to {out}: {error.strerror or error}; what was there is whole") from error
        except ArtifactError as error:
            raise TrainingError(str(error)) from error
        except Exception as error:
            if not _of_device(error):
                raise
            raise TrainingError(
                f"the device failed: {' '.join(str(error).split())}; what was in {out} is whole, and --resume goes on "
                "from the last snapshot"
            ) from error


def _network(recipe: Recipe, vocabulary_size: int) -> NextWordNetwork:
    """With what belongs to the training, and not to the network that is kept: dropout and the like."""
    arguments = {**recipe.network, "vocabulary_size": vocabulary_size}
    settings = recipe.training
    if settings.regularisation is not None:
        del arguments["kind"]
        return AWDLSTM(**arguments, **settings.regularisation.model_dump())
    return build(arguments | ({"dropout": settings.dropout} if settings.dropout else {}))


def _averaging(network: NextWordNetwork, settings: Training, total: int) -> WeightAveraging | None:
    if settings.average_from == 1 and not settings.average_patience:
        return None
    return WeightAveraging(network, round(total * settings.average_from), settings.average_patience)


def _optimizer(settings: Training, network: NextWordNetwork, processes: Processes) -> tuple[Any, GradientClipping]:
    adam = settings.optimizer == "adam"
    optimizer = Adam(beta2=settings.beta2) if adam else chainer.optimizers.SGD()
    optimizer.setup(network)
    optimizer.add_hook(GradientAveraging(processes))
    clipping = GradientClipping(settings.gradient_clipping)
    optimizer.add_hook(clipping)
    if settings.weight_decay:
        optimizer.add_hook(chainer.optimizer_hooks.WeightDecay(settings.weight_decay))
    return optimizer, clipping


def _sampler(data: TrainingData, settings: Training, streams: int) -> CandidateSampler | None:
    if not settings.candidates:
        return None
    counts = np.bincount(data.train, minlength=len(data.tokenizer))
    return CandidateSampler(counts, settings.candidates, streams * settings.window)


def _look_on(
    trainer: Any,
    data: TrainingData,
    recipe: Recipe,
    total: int,
    averaging: WeightAveraging | None,
    start: str | None,
    console: Console,
) -> Any:
    """Give the trainer what measures, logs, draws and tells; returns the LogReport. The first to run stand first."""
    network: NextWordNetwork = trainer.updater.get_optimizer("main").target
    iterator: ParallelSequentialIterator = trainer.updater.get_iterator("main")
    settings, title = recipe.training, f"Training {recipe.name}"
    validation_interval = -(-total // settings.validations)
    always = At(1, total)
    at_validation = At(validation_interval, total)
    at_entry = At(-(-total // _LOG_ENTRIES), total, also=validation_interval)

    if averaging is not None:
        trainer.extend(averaging, trigger=always)
    start_id = None if start is None else data.tokenizer.id_of(start)
    trainer.extend(Validation(network, data.valid, start_id, settings, averaging), trigger=at_validation)
    log = chainer.training.extensions.LogReport(
        trigger=at_entry,
        postprocess=lambda entry: entry.update(epoch_detail=iterator.epoch_detail),
        log_name=None,  # its own file is left half-written by a full disk
    )
    trainer.extend(log, trigger=always)
    trainer.extend(
        lambda trainer: write_log(log.log, Path(trainer.out)),
        name="write_log",
        trigger=at_entry,
        priority=log.priority - 5,
    )
    trainer.extend(
        lambda trainer: report.write(log.log, title, Path(trainer.out)),
        name="report",
        trigger=at_validation,
        priority=log.priority - 10,
    )
    words = iterator.words_an_epoch * settings.epochs
    trainer.extend(ProgressBar(console, total, words / total), trigger=always)
    return log


def _check_range(network: NextWordNetwork) -> None:
    """Raise DivergedError for weights that a model cannot hold; a loss that no longer depends on them stays finite."""
    most = float(np.finfo(np.float16).max)
    for name, weight in network.weights.items():
        if not (largest := float(abs(weight).max())) <= most:
            raise DivergedError(f"{name} holds {largest:g}, and a model is written in float16")


def _written(out: Path) -> Artifact | None:
    """The model of a training that had ended, with all that was measured on it since."""
    try:
        return Artifact.load(out / MODEL)
    except ArtifactError:
        return None


def _write_model(
    recipe: Recipe,
    network: NextWordNetwork,
    data: TrainingData,
    averaging: WeightAveraging | None,
    start: str | None,
    log: Any,
    out: Path,
) -> Artifact:
    if averaging is not None:
        averaging.settle()
    network.to_device("@numpy")
    last: dict[str, Any] = next((entry for entry in reversed(log.log) if "validation/loss" in entry), {})
    validation = {name: figure for name, figure in last.items() if math.isfinite(figure)}
    return Artifact.write(
        out / MODEL,
        name=recipe.name,
        network=network.arguments,
        start=start,
        tokenizer=data.tokenizer,
        weights=network.weights,
        card=data.card(recipe, network.count_params(), validation),
        training={"recipe": recipe.model_dump(), "validation": validation},
        dtype="float16",
    )


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the training after the current update; a second one ends it at once."""
    seen = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, on_signal) for number in numbers}
    except ValueError:  # not the main thread: nobody's Ctrl-C arrives here
        before = {}
    try:
        yield lambda: seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
