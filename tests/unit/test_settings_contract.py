# SPDX-License-Identifier: Apache-2.0
"""``run/env``: what is written is what is read, by this build and by others."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepaas.errors import ConfigurationError
from edgepaas.files.contract import ContractMissing, write_contract
from edgepaas.settings import SETTINGS, Settings
from edgepaas.settings.resolve import resolve


def same(one: Settings, other: Settings) -> bool:
    return one.contract() == other.contract() and one.services == other.services


def test_everything_survives_the_contract(tmp_path: Path) -> None:
    settings = Settings.of(
        DATABASE_URL="postgres://u:p%40@db.example/x?sslmode=require",
        REQUIRED_SERVICES="mqtt,redis://:geheim@r",
        MQTT__HOST="broker",
        MQTT__PORT="1883",
        REQUEST_MAX_BYTES="1MiB",
        LOG_FILE="none",
        APP_COLOUR='a "$b" `c` \\',
    )
    settings.write(tmp_path / "env")
    again = Settings.read(tmp_path / "env")
    assert same(settings, again)
    assert again.is_given("REQUEST_MAX_BYTES")
    assert not again.is_given("BOTH_DB")
    assert again.extra == {"APP_COLOUR": 'a "$b" `c` \\'}
    assert (tmp_path / "env").stat().st_mode & 0o777 == 0o600


def test_a_contract_of_another_build_is_read(tmp_path: Path) -> None:
    """Names that it lacks take their defaults, unknown ones are kept out."""
    entries = Settings.of(PORT="9000", ENV="production").contract()
    del entries["THREADS"], entries["HOST"]
    write_contract(tmp_path / "env", {**entries, "FROM_THE_FUTURE": "1", "MAX_RETRIES": "many"})
    settings = Settings.read(tmp_path / "env")
    assert settings.integer("PORT") == 9000
    assert settings.integer("THREADS") == 4
    assert settings.text("HOST") == "::"
    assert settings.integer("MAX_RETRIES") == 6
    assert "FROM_THE_FUTURE" not in settings.values()
    assert settings.values().keys() == SETTINGS.keys()


def test_a_missing_contract_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(ContractMissing, match="'edgepaas env'"):
        Settings.read(tmp_path / "env")


def test_settings_for_tools_refuse_what_has_no_reading() -> None:
    with pytest.raises(ConfigurationError, match="there is no setting PROT"):
        Settings.of(PROT="1")
    with pytest.raises(ConfigurationError, match="PORT: 'x' is not a whole number"):
        Settings.of(PORT="x")
    with pytest.raises(ConfigurationError) as caught:
        Settings.of(DATABASE_URL="mysql://u:geheim@h")
    assert "geheim" not in str(caught.value)


def test_values_are_typed_and_immutable() -> None:
    settings = Settings.of(
        CORS_ORIGINS="https://a https://b", HEALTH_TIMEOUT="500ms", DISK_MIN_FREE="1k", PORT="81"
    )
    assert settings.items("CORS_ORIGINS") == ("https://a", "https://b")
    assert settings.number("HEALTH_TIMEOUT") == 0.5
    assert settings.size("DISK_MIN_FREE") == 1024
    assert settings.integer("PORT") == 81
    assert settings.flag("RUN_MIGRATIONS") is True
    with pytest.raises(AttributeError, match="immutable"):
        settings.services = ()
    with pytest.raises(TypeError):
        settings.values()["PORT"] = "1"  # type: ignore[index]
    for unknown in (settings.text, settings.is_given):
        with pytest.raises(KeyError):
            unknown("PROT")


@pytest.mark.parametrize(
    ("given_", "path"),
    [
        ({}, "/state/edgepaas.db"),
        ({"DATABASE_URL_SQLITE": "sqlite:///x.db"}, "/state/x.db"),
        ({"DATABASE_URL_SQLITE": "sqlite:////data/x.db"}, "/data/x.db"),
        ({"DATABASE_URL": "sqlite:///y.db"}, "/state/y.db"),
        ({"DATABASE_URL": "sqlite:////y.db?timeout=3"}, "/y.db"),
    ],
)
def test_the_embedded_databases_file(given_: dict[str, str], path: str) -> None:
    assert Settings.of(**given_).sqlite_file(Path("/state")) == Path(path)


@pytest.mark.parametrize(
    ("text", "path"), [("", "/logs/x.log"), ("none", None), ("/a/b.log", "/a/b.log")]
)
def test_the_log_file(text: str, path: str | None) -> None:
    assert Settings.of(LOG_FILE=text).log_file(Path("/logs/x.log")) == (path and Path(path))


def test_no_secret_is_in_the_repr() -> None:
    assert "geheim" not in repr(Settings.of(DATABASE__PASSWORD="geheim"))


_WRITTEN = st.text(max_size=30) | st.sampled_from(
    [
        "true",
        "off",
        "7",
        "2.5",
        "none",
        "host.example",
        "[::1]",
        "/a/b",
        "sqlite:///x.db",
        "postgres://u@h/d?sslmode=require&sslrootcert=/x",
        "postgres:///d?host=/run/pg",
        "mqtt redis redis://:a@b tcp://[::1]:5",
        "production",
    ]
)


@given(st.dictionaries(st.sampled_from([*SETTINGS, "MQTT__HOST", "MQTT__PORT", "APP_X"]), _WRITTEN))
def test_whatever_is_resolved_survives_the_contract(environ: dict[str, str]) -> None:
    environ.pop("VAULT__ENABLED", None)
    settings = resolve(environ, Path("/nonexistent"), None).settings
    with TemporaryDirectory() as folder:
        settings.write(Path(folder) / "env")
        assert same(settings, Settings.read(Path(folder) / "env"))
