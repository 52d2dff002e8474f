"""The limit of a request's time: until its answer begins."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskflow_api.problems import REQUEST_TIMEOUT, SERVICE_UNAVAILABLE, problem_response


class RequestTimeoutMiddleware:
    """Ends a request that takes too long: 408 while its body is awaited, else 503."""

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body_is_asked_for = body_is_complete = False

        async def watch_body() -> Message:
            nonlocal body_is_asked_for, body_is_complete
            body_is_asked_for = True
            message = await receive()
            # What comes after the body is the client's leaving, which an answer may wait with.
            body_is_complete = body_is_complete or not message.get("more_body", False)
            return message

        async def watch_answer(message: Message) -> None:
            # What streams may take its time; the server cuts off readers that are gone.
            limit.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(self._seconds) as limit:
                await self._app(scope, watch_body, watch_answer)
        except TimeoutError:
            if not limit.expired():
                raise
            if body_is_asked_for and not body_is_complete:
                detail = f"The body did not arrive within {self._seconds:g} seconds."
                response = problem_response(scope, REQUEST_TIMEOUT, detail)
            else:
                detail = f"There was no answer within {self._seconds:g} seconds."
                response = problem_response(
                    scope, SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "5"}
                )
            await response(scope, receive, send)
