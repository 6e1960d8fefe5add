# SPDX-License-Identifier: Apache-2.0
"""Resolving: the order of the sources, what follows from what, and contradictions."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from edgepaas.settings.resolve import Resolution, resolve
from edgepaas.settings.vault import VaultAccess, VaultUnavailable

URL = "postgresql://u:geheim@db.example/app"


def resolved(
    tmp_path: Path,
    file: str | bytes = "",
    environ: Mapping[str, str] | None = None,
    credentials: Mapping[str, str] | None = None,
    secret: Mapping[str, str] | None = None,
) -> Resolution:
    """Resolve the given sources, written where they belong."""
    env_file, folder = tmp_path / "edgepaas.env", tmp_path / "credentials"
    env_file.write_bytes(file.encode() if isinstance(file, str) else file)
    folder.mkdir()
    for name, text in (credentials or {}).items():
        (folder / name).write_text(text, encoding="utf-8")

    def vault(access: VaultAccess) -> Mapping[str, str]:
        if secret is None:
            raise VaultUnavailable("vault:8200: away")
        return secret

    return resolve(environ or {}, env_file, folder, vault=vault, hostname="box")


def messages(resolution: Resolution) -> str:
    return "\n".join(f"{' '.join(f.names)}: {f.message}" for f in resolution.findings)


def test_nothing_at_all_gives_the_defaults(tmp_path: Path) -> None:
    result = resolve({}, tmp_path / "none", None, hostname="box")
    assert result.findings == []
    assert result.settings.text("NODE_NAME") == "box"
    assert not any(result.settings.is_given(name) for name in result.settings.values())


def test_the_sources_have_an_order(tmp_path: Path) -> None:
    """Environment, credentials, file, Vault, default: each wins over all that follow."""
    sources = {
        "environ": {"PORT": "1"},
        "credentials": dict.fromkeys(["PORT", "threads"], "2"),
        "file": "PORT=3\nTHREADS=3\nCONNECTION_LIMIT=5\nVAULT__ENABLED=1\nVAULT__TOKEN=t\n"
        "VAULT__URL=http://vault:8200\n",
        "secret": dict.fromkeys(["PORT", "THREADS", "connection_limit", "rate_burst"], "4"),
    }
    result = resolved(tmp_path, **sources)  # type: ignore[arg-type]
    settings = result.settings
    names = ("PORT", "THREADS", "CONNECTION_LIMIT", "RATE_BURST", "MAX_RETRIES")
    assert [settings.integer(name) for name in names] == [1, 2, 5, 4, 6]
    assert [result.provenance[name].source for name in names] == [
        "environment",
        "the credential threads",
        f"{tmp_path}/edgepaas.env line 3",
        "Vault secret/data/edgepaas",
        "default",
    ]
    assert settings.sources["CONNECTION_LIMIT"] == "file:3"


@pytest.mark.parametrize(
    ("file", "env"),
    [("ENV=staging\n", "staging"), ("", "production"), ("\x00garbage", "production")],
)
def test_what_the_package_says_holds_where_no_source_says_anything(
    tmp_path: Path, file: str, env: str
) -> None:
    """A lost file of settings does not turn an installed box into a developer's open one."""
    env_file = tmp_path / "edgepaas.env"
    env_file.write_text(file, encoding="utf-8")
    resolution = resolve({}, env_file, None, hostname="box", fallback={"ENV": "production"})
    assert resolution.settings.text("ENV") == env
    assert resolution.settings.flag("AUTH_REQUIRED")


def test_an_empty_value_is_no_value(tmp_path: Path) -> None:
    result = resolved(tmp_path, "PORT=9000\n", {"PORT": "", "THREADS": "  "})
    assert result.settings.integer("PORT") == 9000
    assert result.findings == []


def test_a_malformed_boolean_takes_its_default_and_is_reported(tmp_path: Path) -> None:
    result = resolved(tmp_path, "RUN_MIGRATIONS=perhaps\n")
    assert result.settings.flag("RUN_MIGRATIONS") is True
    assert not result.settings.is_given("RUN_MIGRATIONS")
    assert "RUN_MIGRATIONS: 'perhaps' is neither true nor false" in messages(result)
    assert "line 1" in messages(result)


def test_a_mistyped_environment_is_taken_for_production(tmp_path: Path) -> None:
    """Development opens the box on loopback; a slip of the pen must not."""
    result = resolved(tmp_path, "ENV=prodction\n")
    assert result.settings.text("ENV") == "production"
    assert result.settings.flag("AUTH_REQUIRED")
    assert "production is used" in messages(result)


def test_a_value_may_lie_in_a_file(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_bytes(b"\xef\xbb\xbf geheim \r\n")
    result = resolved(
        tmp_path, f"DATABASE__PASSWORD_FILE={password}\n", {"PORT_FILE": str(tmp_path / "port")}
    )
    assert result.settings.text("DATABASE__PASSWORD") == " geheim "
    assert "PORT: is not taken from PORT_FILE" in messages(result)
    assert result.settings.integer("PORT") == 8080


def test_a_value_and_its_file_in_one_source_contradict(tmp_path: Path) -> None:
    result = resolved(tmp_path, "PORT=1\nPORT_FILE=/x\n", {"THREADS_FILE": "/x", "THREADS": "2"})
    assert "PORT PORT_FILE: both are set in the env file" in messages(result)
    assert "THREADS THREADS_FILE: both are set in the environment" in messages(result)


@pytest.mark.parametrize("name", ["DATABASE__PASSWORD", "edgepaas.database__password"])
def test_a_credential_is_named_as_the_setting(tmp_path: Path, name: str) -> None:
    result = resolved(tmp_path, credentials={name: "geheim\n", "of.somebody.else": "x"})
    assert result.settings.text("DATABASE__PASSWORD") == "geheim"
    assert result.settings.sources["DATABASE__PASSWORD"] == "credentials"
    assert result.findings == []


def test_an_unreadable_folder_of_credentials_is_reported(tmp_path: Path) -> None:
    result = resolve({}, tmp_path / "none", tmp_path / "nowhere")
    assert "CREDENTIALS_DIRECTORY" in messages(result)


def test_quotes_that_docker_hands_through_are_taken_off(tmp_path: Path) -> None:
    result = resolved(tmp_path, environ={"PORT": '"9000"', "BOTH_DB": "'True'"})
    assert result.settings.integer("PORT") == 9000
    assert result.settings.flag("BOTH_DB")
    assert result.provenance["PORT"].changed == "quotes taken off"


def test_an_unknown_name_in_the_file_is_reported_with_the_nearest(tmp_path: Path) -> None:
    result = resolved(tmp_path, "DATABSE_URL=x\nSOMETHING=1\nEDGEPAAS_HOME=/x\n")
    assert "DATABSE_URL: in" in messages(result)
    assert "did you mean DATABASE_URL?" in messages(result)
    assert "SOMETHING: in" in messages(result)
    assert "EDGEPAAS_HOME: has no effect" in messages(result)


def test_a_file_full_of_unknown_names_is_reported_briefly(tmp_path: Path) -> None:
    result = resolved(tmp_path, "".join(f"NAME{n}=1\n" for n in range(5000)))
    assert len(result.findings) == 21


def test_unknown_names_of_the_environment_are_nobodys_business(tmp_path: Path) -> None:
    assert resolved(tmp_path, environ={"PATH": "/bin", "DATABSE_URL": "x"}).findings == []


def test_a_file_that_somebody_named_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    result = resolve({"EDGEPAAS_ENV_FILE": str(missing)}, missing, None)
    assert "EDGEPAAS_ENV_FILE: names" in messages(result)


def test_the_applications_own_names_pass_through_untouched(tmp_path: Path) -> None:
    environ = {"APP_KEY": ' "x" ', "APP_BAD": "a\nb", "APP_LONG": "x" * 40_000}
    result = resolved(tmp_path, "APP_KEY=other\nAPP_lower=y\n", environ)
    assert result.settings.extra == {"APP_KEY": ' "x" ', "APP_lower": "y"}
    assert "APP_BAD: is not handed on" in messages(result)
    assert "APP_LONG: is not handed on" in messages(result)


@pytest.mark.parametrize(
    ("env", "host", "auth"),
    [("development", "127.0.0.1", False), ("staging", "::", True), ("PROD", "::", True)],
)
def test_address_and_tokens_follow_from_the_environment(
    tmp_path: Path, env: str, host: str, *, auth: bool
) -> None:
    settings = resolved(tmp_path, f"ENV={env}\n").settings
    assert (settings.text("HOST"), settings.flag("AUTH_REQUIRED")) == (host, auth)
    assert not settings.is_given("HOST")


def test_both_databases_are_the_default_when_there_is_a_postgresql(tmp_path: Path) -> None:
    assert resolved(tmp_path, f"DATABASE_URL={URL}\n").settings.flag("BOTH_DB") is True


def test_the_nested_form_composes_a_url(tmp_path: Path) -> None:
    result = resolved(
        tmp_path, "DATABASE__HOST=::1\nDATABASE__PASSWORD='a@b/ %'\nDATABASE__DATABASE=x\n"
    )
    url = "postgresql://edgepaas:a%40b%2F%20%25@[::1]:5432/x"
    assert result.settings.text("DATABASE_URL") == url
    assert result.settings.flag("BOTH_DB")
    assert result.findings == []


def test_a_url_and_a_host_contradict_and_the_url_wins(tmp_path: Path) -> None:
    result = resolved(tmp_path, f"DATABASE_URL={URL}\nDATABASE__HOST=other\n")
    assert "db.example" in result.settings.text("DATABASE_URL")
    assert "DATABASE_URL DATABASE__HOST: both name a database" in messages(result)


def test_a_url_without_a_password_takes_the_nested_one(tmp_path: Path) -> None:
    result = resolved(tmp_path, "DATABASE_URL=postgres://u@localhost/d\nDATABASE__PASSWORD=pw\n")
    assert result.settings.text("DATABASE_URL") == "postgresql://u:pw@localhost:5432/d"


def test_tls_of_the_url_becomes_the_setting(tmp_path: Path) -> None:
    file = f"DATABASE_URL={URL}?sslmode=require&sslrootcert=/ca.pem&application_name=x\n"
    settings = (result := resolved(tmp_path, file)).settings
    assert settings.text("DB_SSLMODE") == "require"
    assert settings.text("DB_SSLROOTCERT") == "/ca.pem"
    assert settings.text("DATABASE_URL").endswith("/app?application_name=x")
    assert "DB_SSLMODE: require does not prove" in messages(result)


def test_two_tls_modes_contradict_and_the_setting_wins(tmp_path: Path) -> None:
    result = resolved(tmp_path, f"DATABASE_URL={URL}?sslmode=disable\nDB_SSLMODE=verify-full\n")
    assert result.settings.text("DB_SSLMODE") == "verify-full"
    assert "DATABASE_URL DB_SSLMODE: DB_SSLMODE=verify-full is used" in messages(result)


def test_weak_tls_is_no_matter_on_the_box(tmp_path: Path) -> None:
    file = "DATABASE_URL=postgres://u@127.0.0.1/d\nDB_SSLMODE=disable\n"
    assert resolved(tmp_path, file).findings == []


def test_a_url_that_cannot_be_read_leaves_the_box_on_sqlite(tmp_path: Path) -> None:
    result = resolved(tmp_path, "DATABASE_URL=postgres://u:ge/heim@h/d\n")
    assert result.settings.text("DATABASE_URL") == ""
    assert not result.errors
    assert any(finding.alert for finding in result.findings)
    assert "heim" not in messages(result)


def test_postgresql_alone_with_a_url_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    result = resolved(tmp_path, "DATABASE_URL=mysql://u:geheim@h/d\nBOTH_DB=no\n")
    assert [finding.names for finding in result.errors] == [("DATABASE_URL", "BOTH_DB")]
    assert "geheim" not in messages(result)


def test_postgresql_alone_without_a_url_is_an_error_in_production(tmp_path: Path) -> None:
    (error,) = resolved(tmp_path, "ENV=production\nBOTH_DB=false\n").errors
    assert error.names == ("BOTH_DB", "DATABASE_URL")
    assert "ENV=production" in error.message


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("BOTH_DB=false\n", ("BOTH_DB", "DATABASE_URL")),
        ("BOTH_DB=true\n", ("BOTH_DB", "DATABASE_URL")),
        (f"DATABASE_URL={URL}\nUSE_SQLITE=1\nBOTH_DB=0\n", ("USE_SQLITE", "BOTH_DB")),
        ("CORS_ORIGINS=https://a\nCORS_ENABLED=false\n", ("CORS_ORIGINS", "CORS_ENABLED")),
        ("CORS_ENABLED=true\n", ("CORS_ENABLED", "CORS_ORIGINS")),
        ("CORS_ENABLED=true\nCORS_ORIGINS=*\n", ("CORS_ORIGINS",)),
        ("AUTH_REQUIRED=false\nHOST=0.0.0.0\n", ("AUTH_REQUIRED", "HOST")),
        ("AUTH_REQUIRED=false\nHOST=192.0.2.7\n", ("AUTH_REQUIRED", "HOST")),
        ("ALERT_WEBHOOK_URL=http://alerts.example.org/x\n", ("ALERT_WEBHOOK_URL",)),
        ("ALERT_HEARTBEAT_URL=http://alerts.example.org/x\n", ("ALERT_HEARTBEAT_URL",)),
        (
            "DATABASE_URL=sqlite:///a.db\nDATABASE_URL_SQLITE=sqlite:///b.db\n",
            ("DATABASE_URL", "DATABASE_URL_SQLITE"),
        ),
        (
            "DATABASE_URL=postgres://localhost\nDB_SSLMODE=disable\nDB_SSLROOTCERT=/x\n",
            ("DB_SSLMODE", "DB_SSLROOTCERT"),
        ),
        ("MQTT__PORT=1\n", ("MQTT__PORT",)),
        ("MQTT__HOST=x\n", ("MQTT__HOST",)),
        ("REQUIRED_SERVICES=nonsense\n", ("REQUIRED_SERVICES",)),
    ],
)
def test_a_contradiction_names_both_sides_and_the_box_starts(
    tmp_path: Path, file: str, names: tuple[str, ...]
) -> None:
    result = resolved(tmp_path, file)
    assert names in [finding.names for finding in result.findings]
    assert not result.errors


def test_a_word_for_none_overrides_a_lower_source(tmp_path: Path) -> None:
    result = resolved(tmp_path, f"DATABASE_URL={URL}\nDATABASE__HOST=h\n", {"DATABASE_URL": "none"})
    assert result.settings.text("DATABASE_URL") == ""
    assert result.findings == []


VAULT = "VAULT__ENABLED=true\nVAULT__URL=http://vault:8200\nVAULT__TOKEN=t0ken\n"


def test_a_vault_that_is_away_is_a_warning_in_development(tmp_path: Path) -> None:
    result = resolved(tmp_path, VAULT)
    assert not result.errors
    assert "VAULT__URL: http:// sends VAULT__TOKEN" in messages(result)
    assert "VAULT__URL: no settings from there: vault:8200: away" in messages(result)


@pytest.mark.parametrize("env", ["production", "staging", "prodution"])
def test_a_vault_that_is_away_is_an_error_elsewhere(tmp_path: Path, env: str) -> None:
    (error,) = resolved(tmp_path, f"ENV={env}\n{VAULT}").errors
    assert error.names == ("VAULT__URL",)
    assert "t0ken" not in error.message


@pytest.mark.parametrize("missing", ["VAULT__URL", "VAULT__TOKEN"])
def test_what_vault_needs_is_named(tmp_path: Path, missing: str) -> None:
    lines = [line for line in VAULT.splitlines() if not line.startswith(missing)]
    result = resolved(tmp_path, "\n".join(["ENV=production", *lines]), secret={})
    assert [finding.names for finding in result.errors] == [(missing, "VAULT__ENABLED")]


def test_no_secret_is_in_a_repr(tmp_path: Path) -> None:
    result = resolved(tmp_path, f"DATABASE_URL={URL}\nREDIS__PASSWORD=geheim\nREDIS__HOST=r\n")
    assert "geheim" not in repr(result)
