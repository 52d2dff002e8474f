"""Headers of a mail that hold what a user wrote, in the form in which they are sent.

Python's `email` reads an encoded word (`=?utf-8?q?...?=`) within such a text. Until 3.12.4 it then
writes down what that stands for, line breaks and all, and it loses the quotes of a name that is
folded, so that a comma in it makes two recipients. Here a text is what it says, and nothing folds
it anew.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.header import Header
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import Policy

_LONGEST_PLAIN = 60
_PLAIN_TEXT = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_ENCODED_WORD = "=?"


@dataclass(frozen=True, slots=True)
class _Sent:
    """A header in its final form: `email` leaves alone what has a `name` and folds itself."""

    name: str
    value: str

    def fold(self, *, policy: Policy) -> str:
        """The line, or the several, that are sent."""
        return f"{self.name}: {self.value}{policy.linesep}"


def put_text(message: EmailMessage, name: str, text: str) -> None:
    """Give the message a header that is text."""
    message[name] = _Sent(name, _words(text, _PLAIN_TEXT, name))


def put_addresses(message: EmailMessage, name: str, addresses: Iterable[Address]) -> None:
    """Give the message a header of mailboxes, each on a line of its own."""
    message[name] = _Sent(name, ",\r\n ".join(_mailbox(each, name) for each in addresses))


def _mailbox(address: Address, header: str) -> str:
    if not address.display_name:
        return address.addr_spec
    words = _words(address.display_name, _PLAIN_NAME, header)
    # A line with encoded words has 76 characters at most.
    gap = " " if words == address.display_name else "\r\n "
    return f"{words}{gap}<{address.addr_spec}>"


def _words(text: str, plain: re.Pattern[str], header: str) -> str:
    """The text as it is where no reader could take it for anything else, else as encoded words."""
    if not text:
        return ""
    if len(text) <= _LONGEST_PLAIN and _ENCODED_WORD not in text and plain.fullmatch(text):
        return text
    return Header(text, "utf-8", header_name=header).encode(linesep="\r\n")
