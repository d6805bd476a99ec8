"""What the peers take and give: the fields of a one-word predict that any such service would have."""

from __future__ import annotations

from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class PredictRequest(BaseModel):
    session_id: str
    words: list[str]
    position: int | None = None


class Prediction(BaseModel):
    word: str
    probability: float
    log_probability: float


class Word(BaseModel):
    word: str
    known: bool


class PredictReply(BaseModel):
    session_id: str
    position: int
    model: str
    expires_at: str
    words: list[Word]
    predictions: list[Prediction]
    prefix_probability: float
    unknown_probability: float


def predictions(words: Sequence[str], probabilities: Sequence[float], logarithms: Sequence[float]) -> list[Prediction]:
    return [
        Prediction(word=word, probability=probability, log_probability=logarithm)
        for word, probability, logarithm in zip(words, probabilities, logarithms, strict=True)
    ]


def serve(app: FastAPI, port: int) -> None:
    """On uvloop and httptools, with connections kept as long as ours are."""
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        access_log=False,
        log_level="warning",
        loop="uvloop",
        http="httptools",
        timeout_keep_alive=75,
    )
