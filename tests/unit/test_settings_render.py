# SPDX-License-Identifier: Apache-2.0
"""The documents made from the table, and what they never show."""

from pathlib import Path

from edgepaas.settings import SETTINGS, Settings
from edgepaas.settings.envfile import parse_env
from edgepaas.settings.render import (
    env_file_template,
    explain_json,
    explain_rows,
    markdown_reference,
    masked_value,
    readable_size,
)
from edgepaas.settings.resolve import resolve


def test_the_template_names_every_setting_and_sets_only_what_is_asked() -> None:
    template = env_file_template({"ENV": "production"})
    assert {n: e.text for n, e in parse_env(template.encode()).entries.items()} == {
        "ENV": "production"
    }
    assert all(f"\n#{name}=" in template for name in SETTINGS if name != "ENV")
    assert max(len(line) for line in template.splitlines()) <= 120


def test_the_template_uncommented_gives_the_defaults(tmp_path: Path) -> None:
    """What the file shows as a default is what the box does without it."""
    lines = [
        line.removeprefix("#")
        for line in env_file_template().splitlines()
        if line.startswith("#") and line[1:].split("=")[0] in SETTINGS
    ]
    (tmp_path / "env").write_text("\n".join(lines), encoding="utf-8")
    result = resolve({}, tmp_path / "env", None, hostname="box")
    assert result.findings == []
    assert (
        result.settings.values()
        == resolve({}, tmp_path / "none", None, hostname="box").settings.values()
    )


def test_the_reference_names_every_setting() -> None:
    reference = markdown_reference()
    assert all(f"| `{name}` |" in reference for name in SETTINGS)
    assert all(line.count(" | ") == 2 for line in reference.splitlines() if line.startswith("| `"))


def test_nothing_that_is_shown_holds_a_secret(tmp_path: Path) -> None:
    (tmp_path / "env").write_text(
        "DATABASE_URL=postgres://u:geheim@h/d\nDATABASE__PASSWORD=geheim\nREDIS__PASSWORD=geheim\n"
        "REDIS__HOST=r\nVAULT__TOKEN=geheim\nREQUIRED_SERVICES=redis://:geheim@x\n"
        "APP_KEY=geheim\nVAULT__URL=https://u:geheim@v\nDATABASE_URL_FILE=/geheim\n",
        encoding="utf-8",
    )
    result = resolve({}, tmp_path / "env", None)
    assert "geheim" in str(result.settings.contract())
    assert "geheim" not in str(explain_rows(result))
    document = explain_json(result)
    assert "geheim" not in str(document)
    assert document["settings"]["DATABASE_URL"]["value"] == "postgresql://u:****@h:5432/d"


def test_each_item_of_a_list_is_masked_by_itself() -> None:
    text = "a=tcp://x:1,b=redis://:pw@y:2"
    assert masked_value(SETTINGS["OPTIONAL_SERVICES"], text) == "a=tcp://x:1,b=redis://:****@y:2"


def test_sizes_are_written_as_people_write_them() -> None:
    assert [readable_size(n) for n in (0, 1000, 1024, 8 * 1024**2, 1024**3)] == [
        "0",
        "1000",
        "1KiB",
        "8MiB",
        "1GiB",
    ]


def test_every_default_can_be_shown() -> None:
    settings = Settings.of()
    assert all(
        isinstance(masked_value(setting, settings.text(name)), str)
        for name, setting in SETTINGS.items()
    )
