# SPDX-License-Identifier: Apache-2.0
"""The licence and the maintainer's address are the same wherever they stand."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IDENTIFIER = "SPDX-License-Identifier: Apache-2.0"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: What a source file of ours is, by its suffix, and by its name where it has none.
SUFFIXES = {
    *(
        ".py",
        ".c",
        ".mako",
        ".toml",
        ".yaml",
        ".yml",
        ".launcher",
        ".postinst",
        ".prerm",
        ".postrm",
    ),
    *(".service", ".socket", ".path", ".timer", ".target", ".preset", ".sysusers", ".tmpfiles"),
}
NAMES = {"Makefile", "Dockerfile", "rules", "run", "ended", "edgepaas-generator"}
FOLDERS = ("edgepaas", "alembic", "systemd", "packaging", "tests", ".ci")
#: Written by a build or by Python, not by us.
NOT_OURS = {"_build.py"}


def sources() -> list[Path]:
    """Every source file of the tree, relative to its root; symbolic links are left out."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    return sorted(
        path.relative_to(ROOT)
        for path in found
        if (path.suffix in SUFFIXES or path.name in NAMES)
        and path.name not in NOT_OURS
        and not path.is_symlink()
        and not any(parent.is_symlink() for parent in path.parents if parent != ROOT)
    )


def test_every_source_file_names_its_licence_in_its_first_line() -> None:
    """After the line that names the interpreter, where a file has one."""
    without = []
    for path in sources():
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        if lines and lines[0].startswith("#!"):
            del lines[0]
        if not lines or IDENTIFIER not in lines[0]:
            without.append(str(path))
    assert not without, f"no '{IDENTIFIER}' in the first line of {without}"


def test_the_sources_are_found() -> None:
    """A search that finds nothing would pass every file."""
    found = {str(path) for path in sources()}
    assert {
        "Makefile", ".ci/run", "pyproject.toml", "systemd/ended", "systemd/edgepaas.service",
        "packaging/debian/rules", "packaging/edgepaas.launcher", "edgepaas/__init__.py",
        "tests/unit/test_licence.py", "alembic/script.py.mako", "packaging/docker/Dockerfile",
    } <= found  # fmt: skip


def test_the_licence_is_the_one_that_the_package_declares() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in read("LICENSE")
    for name in PROJECT["license-files"]:
        assert (ROOT / name).is_file(), name
    debian = read("packaging/debian/copyright")
    assert "License: Apache-2.0" in debian
    assert "/usr/share/common-licenses/Apache-2.0" in debian
    assert 'org.opencontainers.image.licenses="Apache-2.0"' in read("packaging/docker/Dockerfile")


def test_the_maintainer_is_set_in_one_place() -> None:
    """pyproject.toml names the maintainer; make deb writes the name into the package."""
    (maintainer,) = PROJECT["maintainers"]
    assert "Maintainer: @MAINTAINER@\n" in read("packaging/debian/control")
    # Who made an entry of the Debian changelog signed it: history, which no later name changes.
    address = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.(?:invalid|org|com|net)")
    for name in ("SECURITY.md", "CONTRIBUTING.md", "README.md", "packaging/debian/copyright"):
        assert set(address.findall(read(name))) <= {maintainer["email"]}, name
    assert maintainer["email"] in read("SECURITY.md")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_licence_goes_into_the_wheel() -> None:
    assert PROJECT["license-files"] == ["LICENSE", "NOTICE"]


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE", "README.md", "SECURITY.md", "CHANGELOG.md"])
def test_what_the_package_is_built_from_is_there_where_the_image_is_built(name: str) -> None:
    assert f"!{name}\n" in read(".dockerignore")
    copied = re.search(r"^COPY Makefile (.*) \./$", read("packaging/docker/Dockerfile"), re.M)
    assert copied and name in copied[1].split()
