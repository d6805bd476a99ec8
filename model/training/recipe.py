"""What to train with what: one TOML file, checked whole before anything starts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from model.artifact import Artifact
from model.shapes import NetworkError, checked_network

RECIPES = Path(__file__).parent.parent / "recipes"
#: The networks that have dropout.
_WITH_DROPOUT = ("lstm", "lstm_stack")


class RecipeError(ValueError):
    """A recipe that does not exist or does not hold together; the message names the field and its value."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _below(name: str) -> str:
    """A file below the folder that --data names, and nowhere else: parts of it are written to a folder of ours."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError("the name of a file below the folder that --data names")
    return name


_FileName = Annotated[str, AfterValidator(_below)]


class Documents(_Table):
    """How one file of documents is used; a number alone is its share."""

    share: float = Field(default=1.0, gt=0, le=1)
    #: "line" where every line stands for itself.
    unit: Literal["document", "line"] = "document"
    #: Longer documents are cut at line ends, so that the text is mixed and not one long book after another.
    part_bytes: int = Field(default=50_000, ge=1000)
    #: How often each document is read in one epoch.
    copies: int = Field(default=1, ge=1, le=100)

    @model_validator(mode="before")
    @classmethod
    def _share_alone(cls, value: Any) -> Any:
        return {"share": value} if isinstance(value, float | int) and not isinstance(value, bool) else value


class Data(_Table):
    """The text. Exactly one of the three sources; a single file given as --data takes the place of any of them."""

    policy: Literal["english", "split"]
    #: Words the model knows, <unk> and <eos> included; without it, every word that stands in the training text.
    vocabulary_size: int | None = Field(default=None, ge=3)
    #: A made-up sequence of the words 1 to 9: 1, 2 2, 3 3 3, ...
    simple_sequence: bool = False
    #: What Chainer's own loader fetches where no --data is given.
    fetched: Literal["penn-treebank"] | None = None
    #: Files below --data that are split already.
    train: _FileName | None = None
    valid: _FileName | None = None
    #: Files of documents below --data, and how each is used; some documents are held out.
    documents: dict[_FileName, Documents] | None = Field(default=None, min_length=1)
    #: Leave out lines that tell how to find a person, and lines with slurs (model/training/screen.py).
    screened: bool = False
    #: Of this many documents, chosen by their content, one is held out for validation and one for testing.
    held_out_every: int = Field(default=100, ge=3)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.train is None) != (self.valid is None):
            raise ValueError("train and valid go together")
        sources = [self.simple_sequence, self.train is not None, self.documents is not None]
        if sum(sources) != 1:
            raise ValueError("one source of text is needed: simple_sequence, or train and valid, or documents")
        if self.fetched and self.train is None:
            raise ValueError("fetched goes with train and valid, the names of the same files below --data")
        return self


class Regularisation(_Table):
    """How AWD-LSTM is kept from learning by heart: the arguments of `model.networks.awd_lstm.AWDLSTM`."""

    #: Ratios of dropout: whole words, embedded words, between the layers, before the output, recurrent weights.
    embedding: float = Field(default=0.0, ge=0, lt=1)
    input: float = Field(default=0.0, ge=0, lt=1)
    hidden: float = Field(default=0.0, ge=0, lt=1)
    output: float = Field(default=0.0, ge=0, lt=1)
    weight: float = Field(default=0.0, ge=0, lt=1)
    #: Factors of what is added to the loss: for large outputs, and for outputs that change much from word to word.
    activation: float = Field(default=0.0, ge=0)
    temporal: float = Field(default=0.0, ge=0)


class Training(_Table):
    """How long, how fast, and on what batches."""

    epochs: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    #: Steps of truncated back-propagation through time.
    window: int = Field(ge=1)
    #: Windows of lengths that vary around it, each with a learning rate in proportion.
    jitter: bool = False
    optimizer: Literal["adam", "sgd"] = "adam"
    #: Of Adam: how long it remembers how large gradients were.
    beta2: float = Field(default=0.999, ge=0, lt=1)
    #: "cosine" is said by the three fields that follow; "one_cycle", of Adam, by the first of them alone.
    schedule: Literal["cosine", "one_cycle"] = "cosine"
    learning_rate: float = Field(gt=0)
    #: Share of the training in which the learning rate rises; from there it falls to zero along a cosine.
    warmup: float = Field(default=0.0, ge=0, lt=1)
    #: False keeps the learning rate where it is after the warm-up.
    decay: bool = True
    #: The gradients' L2 norm is cut to this.
    gradient_clipping: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    #: For the networks that have dropout.
    dropout: float = Field(default=0.0, ge=0, lt=1)
    #: For an lstm_stack, instead of `dropout`: trained as AWD-LSTM is.
    regularisation: Regularisation | None = None
    #: From this share of the training on, the mean of the weights is what is validated and kept.
    average_from: float = Field(default=1.0, ge=0, le=1)
    #: Or from when a validation was worse than the best of those more than so many before it; 0 waits for none.
    average_patience: int = Field(default=0, ge=0)
    #: Words drawn for the sampled softmax; 0 trains on the whole vocabulary from the start.
    candidates: int = Field(default=0, ge=0)
    #: From this share of the training on, the loss is taken over the whole vocabulary.
    full_softmax_from: float = Field(default=1.0, ge=0, le=1)
    #: Times the validation text is looked at in the whole training.
    validations: int = Field(default=10, ge=1)
    #: Words of the validation text that are looked at.
    validation_words: int = Field(default=50_000, ge=2)
    seed: int = Field(default=0, ge=0, lt=2**32)
    #: On a GPU: tensor cores multiply matrices, whose factors are rounded to 10 bits (TF32).
    tf32: bool = False

    @model_validator(mode="after")
    def _one_cycle_is_whole(self) -> Self:
        if self.schedule == "one_cycle" and (self.optimizer != "adam" or self.warmup or not self.decay):
            raise ValueError("schedule is one_cycle, which is for adam, and leaves warmup and decay out")
        return self


class Recipe(_Table):
    """A recipe; `name` is its file's."""

    name: str
    #: The id of the model that the training begins with instead of chance; see `continuing`.
    base_model: str | None = None
    description: str
    data: Data
    #: A network without its vocabulary_size, which the text decides.
    network: dict[str, Any]
    training: Training

    @field_validator("name")
    @classmethod
    def _names_a_model(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise ValueError("the file's name is the model's: at most 64 letters, digits, '.', '_' and '-'")
        return name

    @field_validator("network")
    @classmethod
    def _fits(cls, network: dict[str, Any]) -> dict[str, Any]:
        if "vocabulary_size" in network:
            raise ValueError("vocabulary_size is decided by the text; data.vocabulary_size limits it")
        try:
            checked_network({**network, "vocabulary_size": 3})
        except NetworkError as error:
            raise ValueError(str(error)) from error
        return network

    @model_validator(mode="after")
    def _has_dropout(self) -> Self:
        if self.training.dropout and self.network["kind"] not in _WITH_DROPOUT:
            raise ValueError(
                f"training.dropout is {self.training.dropout}, and the network {self.network['kind']} has none; "
                f"those that have are {', '.join(_WITH_DROPOUT)}"
            )
        if self.training.regularisation is not None and (self.network["kind"] != "lstm_stack" or self.training.dropout):
            raise ValueError(
                f"training.regularisation is for an lstm_stack without training.dropout; the network is "
                f"{self.network['kind']}, with {self.training.dropout}"
            )
        return self

    def rounding(self) -> Recipe:
        """This recipe with `training.tf32`."""
        return self.model_copy(update={"training": self.training.model_copy(update={"tf32": True})})

    def continuing(self, base: Artifact, *, own_text: bool) -> Recipe:
        """This recipe, beginning with the weights of `base`: its network and vocabulary take the place of the recipe's.

        own_text: whether the text is given, and not the recipe's own. Raises RecipeError where the training asks for
        what that network has not, and where the recipe's own text has words of its own.
        """
        if not own_text and (self.data.simple_sequence or self.data.fetched):
            raise RecipeError(
                f"the recipe {self.name} brings its own words, and --base-model {base.id} knows others: name a text of "
                "yours with --data"
            )
        fields = self.model_dump()
        network = {name: value for name, value in base.network.items() if name != "vocabulary_size"}
        data = {"policy": base.tokenizer.policy, "vocabulary_size": len(base.tokenizer)}
        try:
            return Recipe.model_validate(
                fields | {"base_model": base.id, "network": network, "data": fields["data"] | data}
            )
        except ValidationError as error:
            raise RecipeError(
                f"the recipe {self.name} does not fit --base-model {base.id}: {_faults(error)}"
            ) from error

    def differs_from(self, other: Recipe) -> list[str]:
        """The fields that the weights depend on and that are not the same, with both values."""
        ours, theirs = self.model_dump(), other.model_dump()
        base = [f"base_model is {other.base_model!r}, not {self.base_model!r}"]
        return (base if self.base_model != other.base_model else []) + [
            f"{table}.{field} is {there.get(field)!r}, not {here.get(field)!r}"
            for table in ("data", "network", "training")
            for here, there in [(ours[table], theirs[table])]
            for field in sorted(here.keys() | there.keys())
            if here.get(field) != there.get(field)
        ]


def names() -> list[str]:
    """The recipes that come with nextword."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(recipe: str) -> Recipe:
    """The recipe of that name, or in that .toml file.

    Raises RecipeError naming the field at fault, or the recipes there are.
    """
    path = Path(recipe) if recipe.endswith(".toml") else RECIPES / f"{recipe}.toml"
    if not path.is_file():
        raise RecipeError(f"no recipe {recipe!r}; there are {', '.join(names())}, or give a .toml file of your own")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        if "name" in table:
            raise RecipeError(f"{path}: name: a recipe has the name of its file; remove this field")
        if "base_model" in table:
            raise RecipeError(f"{path}: base_model: a training begins with the model that --base-model names")
        return Recipe.model_validate({"name": path.stem, **table})
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        raise RecipeError(f"{path}: {_faults(error)}") from error


def _faults(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'recipe'}: {fault['msg'].removeprefix('Value error, ')}"
        + ("" if isinstance(fault["input"], dict) else f" (it is {fault['input']!r:.80})")
        for fault in error.errors(include_url=False)
    )
