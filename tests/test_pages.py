"""What the pages say is there."""

import re
from pathlib import Path

import pytest

from taskflow_local.lifecycle import report
from taskflow_local.stack_settings import load_stack_settings

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/README.md")]
)
EXAMPLE = (ROOT / ".env.example").read_text()


def test_the_first_job_of_the_readme_is_the_one_that_make_up_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = re.findall(r"^(TASKFLOW_\w+)=(.*)$", EXAMPLE, re.MULTILINE)
    settings = {name: value or "secret" for name, value in lines}
    report(load_stack_settings(settings), ["api"], {})
    printed = capsys.readouterr().out.partition("A first job:")[2].split()
    assert printed
    (first, *_) = re.findall(r"```sh\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first.split() == printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for commands in re.findall(r"(?:`|^\s*|&& )make ((?:[a-z-]+\b(?!=) ?)+)", text, re.MULTILINE):
        assert set(commands.split()) <= targets, commands
    for setting in re.findall(r"TASKFLOW_(?!TEST_)[A-Z][A-Z0-9_]*[A-Z0-9]", text):
        assert setting in EXAMPLE, setting


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_headings_that_a_page_leads_to_exist(page: Path) -> None:
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text()):
        text = (page.parent / target if target else page).read_text()
        titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert heading in slugs, heading


@pytest.fixture(scope="module")
def tests() -> set[str]:
    """The names of all tests, and of their files."""
    folders = ("shared", "services", "deploy", "migrations", "tests")
    files = [path for folder in folders for path in ROOT.joinpath(folder).rglob("test_*.py")]
    texts = "".join(path.read_text() for path in files)
    return {path.name for path in files} | set(
        re.findall(r"^(?:async )?def (test_\w+)", texts, re.MULTILINE)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_tests_that_prove_what_a_page_says_exist(page: Path, tests: set[str]) -> None:
    for name in re.findall(r"\btest_\w+(?:\.py)?", page.read_text()):
        assert name in tests, name


def test_what_an_operator_is_to_look_for_is_what_the_code_says() -> None:
    code = "".join(
        path.read_text()
        for folder in ("shared/taskflow", "services/api", "services/consumer", "services/scheduler")
        for path in ROOT.joinpath(folder).rglob("*.py")
        if "tests" not in path.parts
    )
    runbook = (ROOT / "docs/runbook.md").read_text()
    (events,) = re.findall(
        r"The events to know:\n\n(.+?)\n\n", (ROOT / "docs/operations.md").read_text(), re.DOTALL
    )
    for name in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", runbook + events):
        assert f'"{name}"' in code, name
    subjects = set(re.findall(r"`(?:FAIL|WARN) (\w+)", runbook))
    invariants = (ROOT / "shared/taskflow/doctor/invariants").glob("I*.sql")
    codes = {path.name.split("_")[0].replace("I0", "I") for path in invariants}
    assert subjects
    for subject in subjects - codes - {"I"}:
        assert f'"{subject}' in code, subject
