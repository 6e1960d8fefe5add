# SPDX-License-Identifier: Apache-2.0
"""Every source file names its licence."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IDENTIFIER = "SPDX-License-Identifier: Apache-2.0"

#: What a source file of ours is, by its suffix, and by its name where it has none.
SUFFIXES = {
    *(".py", ".c", ".mako", ".toml", ".yaml", ".yml", ".launcher", ".postinst", ".postrm"),
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
