"""What is left of a caller's limits, told with every answer to it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskflow_api.rate_limits.takes import Taken


class LimitHeadersMiddleware:
    """Adds `RateLimit` and `RateLimit-Policy` once a request was charged to its caller."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                taken: Taken | None = scope["state"].get("rate_limit")
                if taken is not None:
                    message["headers"] += taken.headers()
            await send(message)

        await self._app(scope, receive, send_with_limits)
