"""The limit of a request's body, counted as it streams in, whatever its headers claim."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskflow_api.problems import BODY_TOO_LARGE, ProblemError, problem_response


class BodyLimitMiddleware:
    """Refuses a body that is announced too large at once, another one when it becomes so."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._detail = f"A body may have {max_bytes} bytes at most."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced_bytes(scope) > self._max_bytes:
            response = problem_response(scope, BODY_TOO_LARGE, self._detail)
            await response(scope, receive, send)
            return
        received_bytes = 0

        async def count() -> Message:
            nonlocal received_bytes
            message = await receive()
            if message["type"] == "http.request":
                received_bytes += len(message.get("body", b""))
                if received_bytes > self._max_bytes:
                    raise ProblemError(BODY_TOO_LARGE, self._detail)
            return message

        await self._app(scope, count, send)


def _announced_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        # More digits than any real length has, and int() would refuse very many.
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0
