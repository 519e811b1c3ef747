"""Fetches the scripts of others that are kept in this repository, and checks what arrives.

``make vendor`` runs it; nothing else does, and no report and no test fetches anything. Versions and
checksums are those of `SCRIPTS`: a newer release is taken by changing them here.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

REGISTRY = "https://registry.npmjs.org"
ROOT = Path(__file__).parent


@dataclass(frozen=True)
class Script:
    """One npm package, and where its files are kept.

    Attributes:
        package: its name on npm.
        version: the release.
        license: its SPDX identifier.
        integrity: npm's checksum of the archive: ``sha512-`` and base64.
        folder: where the files go, relative to the repository.
        files: name in the archive -> name here.
    """

    package: str
    version: str
    license: str
    integrity: str
    folder: str
    files: dict[str, str]

    @property
    def address(self) -> str:
        """Where the archive is."""
        return f"{REGISTRY}/{self.package}/-/{self.package}-{self.version}.tgz"

    @property
    def facts(self) -> str:
        """What is kept beside the files: name, version, license and checksum, as JSON."""
        known = {
            "package": self.package,
            "version": self.version,
            "license": self.license,
            "integrity": self.integrity,
        }
        return json.dumps(known, indent=1) + "\n"


SCRIPTS = (
    Script(
        "plotly.js-cartesian-dist-min",
        "4.1.1",
        "MIT",
        "sha512-o8GrFeusncwBIxbBynRJpY4pkgVB6caM+JLpwrLYbbsO7dZ8FJ+SVN2Fr+L7kiG/"
        "Z6w4P5O0Jus/Qr5EefHVeg==",
        "sigprop/reporting/vendor",
        {"plotly-cartesian.min.js": "plotly-cartesian.min.js", "LICENSE": "plotly.LICENSE"},
    ),
    Script(
        "axe-core",
        "4.14.1",
        "MPL-2.0",
        "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASy"
        "FNNtuFooJpZe37OgudVGtQ==",
        "tests/vendor",
        {"axe.min.js": "axe.min.js", "LICENSE": "axe.LICENSE"},
    ),
)


def unpacked(archive: bytes, script: Script) -> dict[str, bytes]:
    """Return the files of an archive that are kept, by the name that they get.

    Args:
        archive: a gzipped tar file, as npm serves it.
        script: says which files, and what the checksum is.

    Raises:
        ValueError: the checksum is another one.
    """
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode("ascii")
    if found != script.integrity:
        raise ValueError(
            f"{script.package} {script.version} has the checksum {found}, "
            f"not {script.integrity}; nothing was written"
        )
    kept = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for inside, name in script.files.items():
            member = files.extractfile(f"package/{inside}")
            assert member is not None, f"{inside} is a folder"
            kept[name] = member.read()
    return kept


def fetch(script: Script, root: Path = ROOT) -> None:
    """Write the files of a script, and what they are, into its folder.

    Args:
        script: what to fetch.
        root: the repository.
    """
    with urllib.request.urlopen(script.address) as answer:
        archive = answer.read()
    folder = root / script.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in unpacked(archive, script).items():
        (folder / name).write_bytes(content)
    (folder / f"{script.package}.json").write_text(script.facts, "utf-8")


if __name__ == "__main__":
    for wanted in SCRIPTS:
        fetch(wanted)
        sys.stdout.write(f"{wanted.package} {wanted.version}: {wanted.folder}\n")
