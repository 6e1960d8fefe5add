# SPDX-License-Identifier: Apache-2.0
"""Unpack wheels into one folder that Python can import from, as the package ships it.

    tree.py WHEELS LIBRARY LICENCES

WHEELS is a folder of pure wheels. LIBRARY receives their modules and of each
``.dist-info`` what is read at run time (METADATA, entry points). LICENCES receives
one file: every component's name, version, home and verbatim licence, for
/usr/share/doc/edgepaas/copyright. Needs the standard library alone.
"""

import sys
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

#: Sources of compiled parts and stubs for type checkers: nothing at run time reads them.
NOT_SHIPPED = (".c", ".h", ".pxd", ".pyi", ".pyx")
#: What importlib.metadata reads; the rest is pip's own record of an installation.
KEPT_OF_INFO = ("METADATA", "entry_points.txt")
LICENCE_NAMES = ("LICENSE", "LICENCE", "COPYING", "NOTICE")
#: What Debian ships itself is referred to (Debian Policy 12.5); known by a sentence of its text.
COMMON_LICENCES = {
    "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION": "Apache-2.0",
    'Exhibit B - "Incompatible With Secondary Licenses" Notice': "MPL-2.0",
}
#: Of a project's addresses, the one where its sources can be had.
HOME_LABELS = ("source", "source code", "repository", "homepage", "github", "gitlab")


def main(arguments: list[str]) -> int:
    """Unpack; return the exit status."""
    wheels, library, licences = (Path(argument) for argument in arguments)
    texts = []
    for wheel in sorted(wheels.glob("*.whl"), key=lambda path: path.name.lower()):
        if not wheel.name.endswith("-none-any.whl"):
            raise SystemExit(f"tree: {wheel.name} is not pure Python")
        texts.append(unpack(wheel, library))
    compiled = [str(path) for path in library.rglob("*.so*")]
    if compiled or not texts:
        raise SystemExit(f"tree: compiled files in the tree: {compiled or 'no wheels at all'}")
    licences.write_text("\n".join(filter(None, texts)), encoding="utf-8")
    return 0


def unpack(path: Path, library: Path) -> str:
    """Unpack one wheel into *library* and return what is to be said about its licence."""
    notices: list[str] = []
    header: Message | None = None
    with zipfile.ZipFile(path) as wheel:
        for name in sorted(wheel.namelist()):
            where = PurePosixPath(name)
            top = where.parts[0]
            if name.endswith("/") or top.endswith(".data") or where.suffix in NOT_SHIPPED:
                continue  # folders; scripts for PATH (ours is /usr/bin/edgepaas); sources
            content = wheel.read(name)
            if top.endswith(".dist-info"):
                if where.name == "METADATA":
                    header = HeaderParser().parsestr(content.decode("utf-8"))
                if where.name.upper().startswith(LICENCE_NAMES):
                    notices.append(content.decode("utf-8", "replace"))
                if where.name not in KEPT_OF_INFO or len(where.parts) > 2:
                    continue
            target = library / where
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                raise SystemExit(f"tree: two wheels hold {name}")
            target.write_bytes(content)
    if header is None:
        raise SystemExit(f"tree: {path.name} holds no METADATA")
    return "" if header["Name"] == "edgepaas" else component(header, notices)


def component(header: Message, notices: list[str]) -> str:
    """Return one component's part of the copyright file: who made it, and its licence verbatim."""
    classifiers = [c.split("::")[-1].strip() for c in header.get_all("Classifier") or []
                   if c.startswith("License ::")]  # fmt: skip
    licence = header["License-Expression"] or header["License"] or ", ".join(classifiers)
    homes = dict(map(_labelled, reversed(header.get_all("Project-URL") or [])))
    home = header["Home-page"] or next((homes[x] for x in HOME_LABELS if x in homes), "")
    lines = [
        "-" * 78,
        f"{header['Name']} {header['Version']}",
        f"Licence: {licence.splitlines()[0] if licence else 'see its home'}",
        f"Author: {header['Author'] or header['Author-email'] or header['Maintainer-email'] or ''}",
        f"Home: {home}",
        "",
        *(_shortened(notice).strip() + "\n" for notice in notices),
    ]
    return "\n".join(line.rstrip() for text in lines for line in text.splitlines() or [""]) + "\n"


def _shortened(notice: str) -> str:
    for sentence, name in COMMON_LICENCES.items():
        if sentence in notice:
            return f"The text is in /usr/share/common-licenses/{name}."
    return notice


def _labelled(project_url: str) -> tuple[str, str]:
    label, _, address = project_url.partition(",")
    return label.strip().lower(), address.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
