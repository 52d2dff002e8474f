"""The software bill of materials: CycloneDX, from the lock, the same bytes for the same lock."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from packaging.utils import canonicalize_name

from taskflow_audit.tools import Ended
from taskflow_audit.verdict import Level, Verdict

SUBJECT = "SBOM"

CycloneDx = Callable[[Sequence[str]], Ended]


def write_sbom(cyclonedx: CycloneDx, exported: str, path: Path) -> Verdict:
    """Write what `uv export` says to `path`, for every platform, with the hashes of the lock."""
    requirements = path.with_name("runtime.txt")
    requirements.write_text(exported)
    options = ["--output-reproducible", "--output-format", "JSON", "--output-file", str(path)]
    ended = cyclonedx(["requirements", str(requirements), *options])
    if ended.code:
        return Verdict(SUBJECT, Level.FAIL, f"cyclonedx-py: {ended.last_word}")
    components = json.loads(path.read_text()).get("components", [])
    lines = [line for line in exported.splitlines() if line[:1].isalnum()]
    asked = {canonicalize_name(line.split("==")[0]) for line in lines}
    told = {canonicalize_name(each["name"]) for each in components if _has_hash(each)}
    if missing := sorted(asked - told):
        return Verdict(SUBJECT, Level.FAIL, "lacks packages or their hashes", tuple(missing))
    return Verdict(SUBJECT, Level.OK, f"{len(components)} components in {path}")


def _has_hash(component: dict[str, object]) -> bool:
    return '"alg": "SHA-256"' in json.dumps(component)
