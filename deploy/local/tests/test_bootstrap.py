"""bootstrap.sh: which Python, which uv, and what is passed on to it."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "bootstrap.sh"

TOOLS = ("cat", "cp", "dirname", "env", "grep", "head", "id", "mkdir", "rm", "sed", "sort")

# It takes the place of every Python: fit when asked for no more than the version in its name.
PYTHON = """#!/bin/sh
wanted=$(printf '%s' "$2" | sed -n 's/.*(3, \\([0-9]*\\)).*/\\1/p')
[ "{minor}" -ge "$wanted" ]
"""

UV = """#!/bin/sh
[ "$1" != --version ] || {{ echo "uv {version} (somewhere)"; exit; }}
echo "$@" >> {log}
env | grep -E '^(UV_|PIP_|VIRTUAL_ENV|PYTHONPATH)' | sort >> {log}
mkdir -p .venv
"""


PYTHON_WITH_VENV = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp {pip} "$3/bin/python"; fi
"""

PIP = """#!/bin/sh
echo "$@" >> {log}
cp {uv} "${{0%/*}}/uv"
"""

PYTHON_WITHOUT_VENV = """#!/bin/sh
case $* in
*%d-venv*) echo python3.13-venv ;;
*venv*) exit 1 ;;
esac
"""


class Machine:
    """A checkout, a home and a PATH on which only the usual tools and what a test adds are."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.home = folder / "home"
        self.bin = folder / "bin"
        self.log = folder / "uv.log"
        (self.checkout / "deploy" / "local").mkdir(parents=True)
        shutil.copy(SCRIPT, self.checkout / "deploy" / "local")
        self.home.mkdir()
        self.bin.mkdir()
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name) or name)

    def add_python(self, minor: int, folder: Path | None = None) -> Path:
        path = (folder or self.bin) / f"python3.{minor}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return self.write(path, PYTHON.format(minor=minor))

    def add_uv(self, version: str = "0.13.9") -> None:
        self.write(self.bin / "uv", UV.format(version=version, log=self.log))

    def write(self, path: Path, text: str) -> Path:
        path.unlink(missing_ok=True)  # it may be a link to the real one
        path.write_text(text)
        path.chmod(0o755)
        return path

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["/bin/sh", "deploy/local/bootstrap.sh", *arguments],
            check=False,
            cwd=self.checkout,
            env={"PATH": str(self.bin), "HOME": str(self.home), **environment},
            capture_output=True,
            text=True,
        )

    def said_to_uv(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if list(Path("/usr/local/bin").glob("python3.*")):
        pytest.skip("a Python in /usr/local/bin would be found")
    return Machine(tmp_path)


def chosen(machine: Machine) -> str:
    words = machine.said_to_uv()[0].split()
    return words[words.index("--python") + 1]


def test_3_13_is_preferred_to_what_is_older(machine: Machine) -> None:
    machine.add_uv()
    machine.add_python(11)
    wanted = machine.add_python(13)
    assert machine.run().returncode == 0
    assert chosen(machine) == str(wanted)


def test_a_pyenv_python_counts(machine: Machine) -> None:
    machine.add_uv()
    machine.add_python(12)
    wanted = machine.add_python(13, machine.home / ".pyenv" / "versions" / "3.13.1" / "bin")
    assert machine.run().returncode == 0
    assert chosen(machine) == str(wanted)


def test_a_shim_that_does_not_run_is_passed_over(machine: Machine) -> None:
    machine.add_uv()
    machine.write(machine.bin / "python3.13", "#!/bin/sh\nexit 127\n")
    wanted = machine.add_python(14)
    assert machine.run().returncode == 0
    assert chosen(machine) == str(wanted)


def test_without_a_fit_python_one_line_says_so(machine: Machine) -> None:
    machine.add_uv()
    done = machine.run()
    assert done.returncode == 1
    assert done.stderr.startswith("Python 3.11 or later is needed")
    assert len(done.stderr.splitlines()) == 1


def test_a_working_environment_is_kept(machine: Machine) -> None:
    machine.add_uv()
    machine.add_python(13)
    (machine.checkout / ".venv" / "bin").mkdir(parents=True)
    machine.write(machine.checkout / ".venv" / "bin" / "python", PYTHON.format(minor=11))
    assert machine.run().returncode == 0
    assert chosen(machine) == ".venv/bin/python"


def test_an_environment_from_elsewhere_is_made_anew(machine: Machine) -> None:
    machine.add_uv()
    wanted = machine.add_python(13)
    (machine.checkout / ".venv" / "bin").mkdir(parents=True)
    machine.write(machine.checkout / ".venv" / "bin" / "python", PYTHON.format(minor=13))
    stamp = machine.checkout / ".venv" / ".taskflow-installed"
    stamp.write_text("/some/other/place")
    assert machine.run().returncode == 0
    assert chosen(machine) == str(wanted)
    assert stamp.read_text() == str(machine.checkout)


def test_settings_for_other_environments_do_not_reach_uv(machine: Machine) -> None:
    machine.add_uv()
    machine.add_python(13)
    strangers = {"UV_FROZEN": "1", "UV_NO_DEV": "1", "UV_PYTHON": "3.9", "VIRTUAL_ENV": "/v"}
    strangers |= {"UV_PROJECT_ENVIRONMENT": "/elsewhere", "PIP_TARGET": "/t", "PYTHONPATH": "/p"}
    assert machine.run(**strangers, UV_HTTP_TIMEOUT="9").returncode == 0
    said = machine.said_to_uv()
    assert f"UV_PROJECT_ENVIRONMENT={machine.checkout}/.venv" in said
    assert "UV_PYTHON_DOWNLOADS=never" in said
    assert "UV_HTTP_TIMEOUT=9" in said
    names = {line.split("=")[0] for line in said[1:]}
    assert names.isdisjoint(set(strangers) - {"UV_PROJECT_ENVIRONMENT"})


@pytest.mark.parametrize("callers", [{}, {"UV_COMPILE_BYTECODE": "0"}])
def test_what_is_installed_is_compiled_at_once(machine: Machine, callers: dict[str, str]) -> None:
    machine.add_uv()
    machine.add_python(13)
    assert machine.run(**callers).returncode == 0
    assert "UV_COMPILE_BYTECODE=1" in machine.said_to_uv()


def test_the_lock_file_is_binding_and_arguments_are_passed_on(machine: Machine) -> None:
    machine.add_uv()
    machine.add_python(13)
    assert machine.run("--group", "load").returncode == 0
    words = machine.said_to_uv()[0].split()
    assert words[0] == "sync"
    assert "--locked" in words
    assert words[-2:] == ["--group", "load"]


def test_an_own_index_gets_the_files_of_the_lock_by_their_hashes(machine: Machine) -> None:
    machine.add_uv()
    machine.add_python(13)
    assert machine.run(UV_DEFAULT_INDEX="https://mirror.example/simple").returncode == 0
    commands = [line for line in machine.said_to_uv() if "=" not in line.split()[0]]
    assert [command.split()[0] for command in commands] == ["venv", "export", "pip", "sync"]
    assert "--require-hashes" in commands[2]
    assert "--locked" not in commands[3]
    assert "UV_DEFAULT_INDEX=https://mirror.example/simple" in machine.said_to_uv()


@pytest.mark.parametrize("version", [None, "0.4.30"])
def test_without_a_new_uv_its_own_is_installed_with_pip(
    machine: Machine, version: str | None
) -> None:
    if version is not None:
        machine.add_uv(version)
    uv = machine.write(machine.home / "uv", UV.format(version="0.13.9", log=machine.log))
    pip = machine.write(machine.home / "pip", PIP.format(uv=uv, log=machine.log))
    machine.write(machine.bin / "python3.13", PYTHON_WITH_VENV.format(pip=pip))
    done = machine.run()
    assert done.returncode == 0, done.stderr
    pip_said, uv_said = machine.said_to_uv()[:2]
    assert pip_said.startswith("-m pip install --quiet uv>=")
    assert uv_said.startswith("sync ")
    assert machine.run().returncode == 0
    assert [line for line in machine.said_to_uv() if "-m pip" in line] == [pip_said]


def test_without_venv_and_root_it_is_said_what_to_install(machine: Machine) -> None:
    machine.write(machine.bin / "id", "#!/bin/sh\necho 1234\n")
    machine.write(machine.bin / "python3.13", PYTHON_WITHOUT_VENV)
    done = machine.run()
    assert done.returncode == 1
    assert "python3.13-venv could not be installed" in done.stderr
