"""No finding of ruff's S rules or of bandit is waved through without a word."""

import re
from pathlib import Path

import pytest

WAVED = re.compile(r"# noqa: (?=[^#]*\bS\d)[A-Z0-9, ]+(?P<noqa>.*)|# nosec(?P<nosec>.*)")


def test_every_finding_that_is_let_through_says_why(checkout: Path) -> None:
    silent = []
    for folder in ("shared", "services", "migrations", "deploy", "examples", "tests"):
        for path in checkout.joinpath(folder).rglob("*.py"):
            if path == Path(__file__):
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if (found := WAVED.search(line)) and not says_why(found):
                    silent.append(f"{path.relative_to(checkout)}:{number}: {line.strip()}")
    assert silent == []


def says_why(found: re.Match[str]) -> bool:
    if found["nosec"] is not None:
        return re.fullmatch(r" B\d{3} # \w.+", found["nosec"]) is not None
    return re.search(r"\w", found["noqa"]) is not None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("x()  # noqa: S311 - jitter", True),
        ("x()  # noqa: S603  (a fixed list)", True),
        ("x()  # noqa: S311", False),
        ("x()  # noqa: E501, S311", False),
        ("x()  # nosec B405 # its name", True),
        ("x()  # nosec B405", False),
        ("x()  # nosec", False),
    ],
)
def test_what_counts_as_a_reason(line: str, why: bool) -> None:
    found = WAVED.search(line)
    assert found
    assert says_why(found) is why


def test_what_is_no_matter_of_security_needs_none() -> None:
    assert WAVED.search("x()  # noqa: E501") is None
