"""What is kept of a request and its answer: in the job's log, and as its result."""

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any

from taskflow.outbound.answers import Answer
from taskflow.outbound.redaction import redacted_headers, redacted_url, without_secrets
from taskflow.outbound.requests import OutboundRequest
from taskflow.sdk.job_log import JobLogger

SHOWN_CHARACTERS = 1000
"""How much of an unwelcome answer's body goes into the log."""

_CHARSET = re.compile(r";\s*charset=\"?([\w.:-]+)", re.IGNORECASE)
# Python knows more; some of them take a time that grows with the square of the text.
_KNOWN_CHARSET = re.compile(
    r"utf-?8|utf-?16([bl]e)?|us-ascii|ascii|iso-?8859-\d{1,2}|latin-?1|windows-125\d|cp125\d"
    r"|shift[_-]jis|euc-(jp|kr)|gbk|gb2312|gb18030|big5|koi8-[ru]",
    re.IGNORECASE,
)


class HttpTranscript:
    """Writes down an exchange without its secrets: neither by name nor where they are echoed."""

    def __init__(
        self, log: JobLogger, secret_headers: Iterable[str], secrets: Iterable[str]
    ) -> None:
        self._log = log
        self._secret_headers = tuple(secret_headers)
        # The longest first: one may be a part of another.
        self._secrets = sorted(secrets, key=len, reverse=True)

    def without_secrets(self, text: str) -> str:
        """The text without those values, wherever the other side has repeated one."""
        return without_secrets(text, self._secrets)

    def sends(self, request: OutboundRequest) -> None:
        """Log the request."""
        self._log.info(
            "request",
            method=request.method,
            url=redacted_url(str(request.to)),
            headers=redacted_headers(request.headers, self._secret_headers),
            body_bytes=len(request.body),
        )

    def received(self, answer: Answer) -> None:
        """Log an answer that was expected; its body is in the result."""
        self._log.info("answer", **self._head(answer))

    def received_unexpected(self, answer: Answer) -> None:
        """Log an answer that was not; there is no result, so the beginning of its body is here."""
        text, encoding = self._body(answer)
        shown = text[:SHOWN_CHARACTERS] if encoding == "text" else None
        self._log.warning("answer", **self._head(answer), body=shown)

    def result(self, answer: Answer) -> Mapping[str, Any]:
        """The job's result."""
        text, encoding = self._body(answer)
        return {**self._head(answer), "body": text, "body_encoding": encoding}

    def _head(self, answer: Answer) -> dict[str, Any]:
        headers = redacted_headers(answer.headers, self._secret_headers)
        return {
            "status": answer.status,
            "url": self.without_secrets(redacted_url(answer.url)),
            "redirects": answer.redirects,
            "headers": {name: self.without_secrets(value) for name, value in headers.items()},
            "body_bytes": len(answer.body),
            "truncated": answer.is_truncated,
            "elapsed_seconds": round(answer.elapsed_seconds, 3),
        }

    def _body(self, answer: Answer) -> tuple[str, str]:
        """The body as text where it is text, else as base64; and which of the two."""
        text = _text(answer)
        if text is None:
            # Headers are sent in Latin-1, and may come back among bytes that are no text.
            content = self.without_secrets(answer.body.decode("latin-1")).encode("latin-1")
            return base64.b64encode(content).decode("ascii"), "base64"
        return self.without_secrets(text), "text"


def _text(answer: Answer) -> str | None:
    found = _CHARSET.search(answer.header("content-type") or "")
    charset = found[1] if found and _KNOWN_CHARSET.fullmatch(found[1]) else "utf-8"
    # What is cut off may end within a character.
    for end in (0, 1, 2, 3) if answer.is_truncated else (0,):
        try:
            text = answer.body[: len(answer.body) - end].decode(charset)
        except (UnicodeDecodeError, LookupError):
            continue
        return None if "\0" in text else text
    return None
