# SPDX-License-Identifier: Apache-2.0
"""Each kind of value: what people write, and what is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepaas.settings import SETTINGS
from edgepaas.settings.kinds import LONGEST_VALUE, Malformed, Setting
from edgepaas.settings.table import SECTIONS


@pytest.mark.parametrize("word", ["true", "TRUE", " Yes ", "1", "on", "enabled", "T", "y"])
def test_words_for_true_are_understood(word: str) -> None:
    assert SETTINGS["USE_SQLITE"].read(word) == "true"


@pytest.mark.parametrize("word", ["false", "False", "no", "0", "OFF", "disabled", "n"])
def test_words_for_false_are_understood(word: str) -> None:
    assert SETTINGS["RUN_MIGRATIONS"].read(word) == "false"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("ENV", "Prod", "production"),
        ("ENV", "DEV", "development"),
        ("LOG_LEVEL", "warn", "WARNING"),
        ("DB_SSLMODE", "Verify-Full", "verify-full"),
        ("PORT", "+9000", "9000"),
        ("PORT", "0080", "80"),
        ("HEALTH_TIMEOUT", "500ms", "0.5"),
        ("STOP_TIMEOUT", "2 min", "120"),
        ("STOP_TIMEOUT", "1h", "3600"),
        ("STOP_TIMEOUT", ".5", "0.5"),
        ("CPU_THRESHOLD", "85 %", "85"),
        ("TEMPERATURE_THRESHOLD", "70°C", "70"),
        ("RATE_LIMIT", "off", "0"),
        ("REQUEST_MAX_BYTES", "1MiB", "1048576"),
        ("REQUEST_MAX_BYTES", "512k", "524288"),
        ("REQUEST_MAX_BYTES", "1 MB", "1000000"),
        ("DISK_MIN_FREE", "none", "0"),
        ("CORS_ORIGINS", " https://a , https://b https://a ", "https://a,https://b"),
        ("CORS_ORIGINS", "none", ""),
        ("LOG_FILE", "None", "none"),
        ("LOG_FILE", "/var//log/x.log", "/var/log/x.log"),
        ("HOST", "[::1]", "::1"),
        ("HOST", "0:0:0:0:0:0:0:1", "::1"),
        ("HOST", "*", "::"),
        ("HOST", "localhost", "localhost"),
        ("TZ", ":Europe/Berlin", "Europe/Berlin"),
        ("TZ", "utc", "UTC"),
        ("DATABASE_URL", "none", ""),
        ("DATABASE_URL_SQLITE", "/data/x.db", "sqlite:////data/x.db"),
        ("DATABASE_URL_SQLITE", "x.db", "sqlite:///x.db"),
        ("VAULT__URL", "HTTPS://vault:8200/", "https://vault:8200"),
        ("NODE_NAME", "\ufeff box-1 ", "box-1"),
    ],
)
def test_what_people_write_is_understood(name: str, text: str, value: str) -> None:
    assert SETTINGS[name].read(text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BOTH_DB", "maybe"),
        ("BOTH_DB", "2"),
        ("ENV", "prodution"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "8080.0"),
        ("PORT", "eighty"),
        ("PORT", "0x50"),
        ("PORT", "8_080"),
        ("PORT", "٨٠٨٠"),
        ("PORT", "9" * 400),
        ("THREADS", "-4"),
        ("STOP_TIMEOUT", "nan"),
        ("STOP_TIMEOUT", "inf"),
        ("STOP_TIMEOUT", "1e9"),
        ("STOP_TIMEOUT", "20 parsecs"),
        ("CPU_THRESHOLD", "101"),
        ("REQUEST_MAX_BYTES", "8 furlongs"),
        ("REQUEST_MAX_BYTES", "-1"),
        ("HOST", "300.1.1.1"),
        ("HOST", "1.2.3"),
        ("HOST", "127.0.0.1:8080"),
        ("HOST", "a b"),
        ("HOST", "/run/x"),
        ("HOST", "-x"),
        ("HOST", "[]"),
        ("TZ", "../../etc/passwd"),
        ("TZ", "Mars/Olympus"),
        ("TZ", "Europe"),
        ("LOG_FILE", "relative.log"),
        ("LOG_FILE", "/" + "x" * 300),
        ("DATABASE_URL", "mysql://h/d"),
        ("DATABASE_URL_SQLITE", "postgresql://h/d"),
        ("DATABASE_URL_SQLITE", "sqlite:///:memory:"),
        ("VAULT__URL", "ftp://x"),
        ("VAULT__URL", "https://user:pw@x"),
        ("VAULT__URL", "https://"),
        ("NODE_NAME", "a\nb"),
        ("NODE_NAME", "a\0b"),
        ("NODE_NAME", "\udc80"),
        ("NODE_NAME", "\ufffe"),
        ("NODE_NAME", "x" * (LONGEST_VALUE + 1)),
    ],
)
def test_what_has_no_reading_is_malformed(name: str, text: str) -> None:
    with pytest.raises(Malformed):
        SETTINGS[name].read(text)


def test_a_secret_keeps_its_blanks() -> None:
    """A password may begin or end with a blank; quotes in the file protect it."""
    assert SETTINGS["DATABASE__PASSWORD"].read(" a b ") == " a b "


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda s: s.name)
def test_every_default_is_canonical_and_every_row_is_complete(setting: Setting) -> None:
    assert setting.help.endswith(".")
    assert setting.allowed
    assert setting.choices == () or setting.default in setting.choices
    if setting.default:
        assert setting.read(setting.default) == setting.default
    assert setting.if_malformed == "" or setting.read(setting.if_malformed) == setting.if_malformed


def test_no_name_is_in_the_table_twice() -> None:
    assert sum(len(group) for group in SECTIONS.values()) == len(SETTINGS)


@given(st.sampled_from(sorted(SETTINGS)), st.text(max_size=60))
def test_reading_never_fails_otherwise_and_is_idempotent(name: str, text: str) -> None:
    """Whatever is written is malformed, or becomes what reads back to itself."""
    setting = SETTINGS[name]
    try:
        value = setting.read(text)
    except Malformed:
        return
    assert value == "" or setting.read(value) == value


@given(
    st.sampled_from(sorted(s.name for s in SETTINGS.values() if s.maximum is not None)),
    st.floats() | st.integers(),
    st.sampled_from(["", "s", "ms", "k", "MiB", "%", "d", " h", "tb"]),
)
def test_numbers_stay_within_their_bounds(name: str, number: float, unit: str) -> None:
    setting = SETTINGS[name]
    try:
        value = float(setting.read(f"{number}{unit}"))
    except Malformed:
        return
    assert setting.minimum is not None
    assert setting.maximum is not None
    assert setting.minimum <= value <= setting.maximum
