"""The limit: FastAPI takes a Pydantic request, gives a Pydantic reply of ten predictions, and does nothing in between.

`python -m tests.benchmarks.peers.echo PORT`
"""

from __future__ import annotations

import itertools
import sys

from fastapi import FastAPI

from tests.benchmarks.peers.shapes import PredictReply, PredictRequest, Word, predictions, serve

app = FastAPI()
_numbers = itertools.count()
_PREDICTIONS = predictions([f"word{number}" for number in range(10)], [0.0123456789] * 10, [-4.394449154672439] * 10)


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    return {"status": "ready"}


@app.post("/v1/sessions")
async def open_session() -> dict[str, str]:
    return {"session_id": f"{next(_numbers):032}"}


@app.post("/v1/predict")
async def predict(request: PredictRequest) -> PredictReply:
    return PredictReply(
        session_id=request.session_id,
        position=(request.position or 0) + 1,
        model="echo@000000000000",
        expires_at="2026-01-01T00:00:00Z",
        words=[Word(word=word, known=True) for word in request.words],
        predictions=_PREDICTIONS,
        prefix_probability=1.0,
        unknown_probability=0.0123456789,
    )


if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
