"""`POST /v1/predict`. Plain ASGI: this is the path that every word takes, and each layer left out is time saved."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from app import problems, replies
from app.requests import ClientLeftError, Headers, Watch, read_body
from app.scheduler import UnavailableError
from app.schemas import PredictRequest
from app.service import Answer, Service

_validate = PredictRequest.__pydantic_validator__.validate_json


class Predict:
    """The ASGI application behind the route."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._limit = service.settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scheduler = self._service.scheduler
        try:
            scheduler.admit()
        except UnavailableError as error:
            await self._refuse(error, scope, receive, send)
            return
        try:
            headers = Headers(scope["headers"])
            request: PredictRequest = _validate(await read_body(receive, headers, self._limit))
            headers.match_session(request.session_id)
            answer: Answer | None = None
            async with Watch(scope, receive):
                answer = await self._service.predict(request)
            if answer is None:
                return  # the client left, and nothing has changed
            body = replies.prediction(
                self._service,
                answer,
                top_k=request.top_k,
                prefix=request.prefix,
                include_unknown=request.include_unknown,
            )
            raw_headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            if answer.session is not None:
                raw_headers.append((b"x-session-id", answer.session.id.encode("ascii")))
        except ClientLeftError:
            return
        except Exception as error:
            await self._refuse(error, scope, receive, send)
            return
        finally:
            scheduler.release()
        await send({"type": "http.response.start", "status": 200, "headers": raw_headers})
        await send({"type": "http.response.body", "body": body})

    async def _refuse(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        retry_after = self._service.settings.retry_after_seconds
        await problems.of_exception(error, retry_after=retry_after).response()(scope, receive, send)
