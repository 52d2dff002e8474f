"""Servers from the system's packages, where they are missing and can't be installed."""

import os
from pathlib import Path

import pytest

from taskflow_local.errors import StackError
from taskflow_local.system_packages import Executable, ensure_installed


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def missing(folder: Path) -> Executable:
    return Executable("no-such-server", "the-package", folder / "no-such-server")


def test_a_program_is_found_on_the_path(folder: Path) -> None:
    program(folder, "some-server", "exit 0")
    assert Executable("some-server", "p").require() == folder / "some-server"


def test_a_daemon_is_found_where_an_ordinary_path_does_not_look(folder: Path) -> None:
    assert Executable("useradd", "passwd").find() == Path("/usr/sbin/useradd")


def test_nothing_is_done_when_nothing_is_missing(folder: Path) -> None:
    program(folder, "no-such-server", "exit 0")
    ensure_installed([missing(folder)])


def test_a_missing_program_is_named_with_its_package(folder: Path) -> None:
    with pytest.raises(StackError, match="the-package"):
        missing(folder).require()


def test_without_apt_the_user_installs_them_himself(folder: Path) -> None:
    with pytest.raises(StackError, match=r"the-package.*Debian and Ubuntu alone"):
        ensure_installed([missing(folder)])


def test_without_root_and_sudo_the_command_for_an_administrator_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    program(folder, "apt-get", "exit 0")
    with pytest.raises(StackError, match="`apt-get install the-package`"):
        ensure_installed([missing(folder)])


def test_sudo_that_wants_a_password_nobody_can_type_is_no_sudo(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    program(folder, "apt-get", "exit 0")
    program(folder, "sudo", "exit 1")
    with pytest.raises(StackError, match="neither root nor sudo"):
        ensure_installed([missing(folder)])


def test_through_sudo_the_package_is_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    program(folder, "apt-get", "exit 0")
    server = folder / "no-such-server"
    program(
        folder, "sudo", f'[ "$2" = true ] || {{ printf "%s " "$@" > {folder}/said; : > {server}; }}'
    )
    ensure_installed([missing(folder)])
    said = (folder / "said").read_text().split()
    assert said[:2] == ["-n", "/bin/sh"]
    assert said[2].endswith("/install_packages.sh")
    assert said[3:] == ["the-package"]


def test_an_installation_that_brings_nothing_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    program(folder, "apt-get", "exit 0")
    program(folder, "sudo", "exit 0")
    with pytest.raises(StackError, match="not found"):
        ensure_installed([missing(folder)])
