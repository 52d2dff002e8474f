"""Where jobs may reach out to, and the server that takes our mail."""

import re
from typing import Literal

from pydantic import SecretStr, model_validator

from taskflow.setting_types import Networks, Port, Seconds
from taskflow.settings.base import Settings

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_ADDRESS = rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*"
MAILBOX = re.compile(
    rf"(?:(?P<name>[^<>\x00-\x1f\x7f-\x9f\u2028\u2029]*)<(?P<named>{_ADDRESS})>|(?P<bare>{_ADDRESS}))"
)
"""ada@example.com or Ada <ada@example.com>; what else the standard allows only hides something."""


class OutboundSettings(Settings):
    """Where requests to URLs that users name may go, beside public addresses."""

    outbound_allowed_networks: Networks = ()


class MailSettings(Settings):
    """The SMTP server that takes our mail; none is set by default."""

    smtp_host: str = ""
    smtp_port: Port = 587
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    smtp_username: str = ""
    smtp_password: SecretStr = SecretStr("")
    smtp_from: str = ""
    smtp_timeout_seconds: Seconds = 30.0

    @model_validator(mode="after")
    def _whole(self) -> "MailSettings":
        if self.smtp_host and not self.smtp_from:
            raise ValueError("TASKFLOW_SMTP_HOST needs TASKFLOW_SMTP_FROM, the sender of all mail")
        if self.smtp_from and not MAILBOX.fullmatch(self.smtp_from):
            raise ValueError(
                "TASKFLOW_SMTP_FROM must be name@example.com or Name <name@example.com>"
            )
        if bool(self.smtp_username) != bool(self.smtp_password.get_secret_value()):
            raise ValueError("TASKFLOW_SMTP_USERNAME and TASKFLOW_SMTP_PASSWORD go together")
        if self.smtp_username and self.smtp_security == "none":
            raise ValueError(
                "TASKFLOW_SMTP_SECURITY=none would send TASKFLOW_SMTP_PASSWORD in the clear"
            )
        return self
