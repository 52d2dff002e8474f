"""The bill of materials against the lock."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taskflow_audit.sbom import write_sbom
from taskflow_audit.tools import Ended
from taskflow_audit.verdict import Level

EXPORTED = """\
redis==8.1.0 \\
    --hash=sha256:a4fe1aac3d3b3cc791d4b3d5931c5a956045dc951ee74d1c913ee3ac4d2ee9fb
typing_extensions==4.16.0 ; python_full_version < '3.13' \\
    --hash=sha256:4f1d9991f5acc0ca119f9d443620b77f9d6b33703e51011c16baf57afb285fc6
"""
HASHED = {"externalReferences": [{"hashes": [{"alg": "SHA-256", "content": "4f1d"}]}]}


def verdict_on(components: list[dict[str, Any]], folder: Path) -> Level:
    def cyclonedx(arguments: Sequence[str]) -> Ended:
        assert "--output-reproducible" in arguments
        Path(arguments[-1]).write_text(json.dumps({"components": components}))
        return Ended(0, "", "")

    return write_sbom(cyclonedx, EXPORTED, folder / "sbom.cdx.json").level


def test_every_package_of_the_lock_is_in_it_with_its_hashes(tmp_path: Path) -> None:
    redis, typing_extensions = {"name": "redis"}, {"name": "typing-extensions"}
    assert verdict_on([redis | HASHED, typing_extensions | HASHED], tmp_path) is Level.OK
    assert verdict_on([redis | HASHED], tmp_path) is Level.FAIL
    assert verdict_on([redis | HASHED, typing_extensions], tmp_path) is Level.FAIL


def test_a_tool_that_fails_is_told(tmp_path: Path) -> None:
    def cyclonedx(_: Sequence[str]) -> Ended:
        return Ended(1, "", "Traceback\nNo module named cyclonedx_py")

    verdict = write_sbom(cyclonedx, EXPORTED, tmp_path / "sbom.cdx.json")
    assert (verdict.level, "No module named" in verdict.text) == (Level.FAIL, True)
