# SPDX-License-Identifier: Apache-2.0
"""Which TLS is demanded for which address, and what is warned about."""

import ssl

import pytest

from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.pgdriver.wire import _not_trusted
from edgepaas.settings import Settings, split_url


@pytest.mark.parametrize(
    ("host", "given", "query", "mode", "warned"),
    [
        ("hub.example", "", "", "verify-full", False),
        ("10.0.0.7", "auto", "", "verify-full", False),
        ("127.0.0.1", "", "", "disable", False),
        ("127.9.9.9", "", "", "disable", False),
        ("localhost", "", "", "disable", False),
        ("[::1]", "", "", "disable", False),
        ("hub.example", "require", "", "require", True),
        ("hub.example", "disable", "", "disable", True),
        ("hub.example", "verify-ca", "", "verify-ca", True),
        ("hub.example", "", "?sslmode=prefer", "prefer", True),
        ("hub.example", "", "?sslmode=allow", "prefer", True),
        ("hub.example", "verify-full", "?sslmode=disable", "verify-full", False),
        ("hub.example", "", "?sslmode=nonsense", "verify-full", True),
        ("127.0.0.1", "", "?sslmode=nonsense", "disable", True),
        ("127.0.0.1", "verify-full", "", "verify-full", False),
        ("127.0.0.1", "", "?sslmode=require", "require", False),
        ("hub.example", "", "?sslmode=require&sslrootcert=/ca.pem", "verify-ca", True),
        ("hub.example", "", "?sslmode=require&sslrootcert=system", "require", True),
    ],
)
def test_the_mode_follows_from_setting_address_and_place(
    host: str, given: str, query: str, mode: str, warned: bool
) -> None:
    """Off the box nothing less than verify-full unless it is said in so many words."""
    settings = Settings.of(**({"DB_SSLMODE": given} if given else {}))
    policy = TLSPolicy.of(settings, split_url(f"postgresql://u:secret@{host}/d{query}"))
    assert (policy.mode, bool(policy.warning)) == (mode, warned)
    assert "secret" not in policy.warning


def test_a_unix_socket_needs_no_tls() -> None:
    """Nothing leaves the box."""
    address = split_url("postgresql://u@/d?host=/run/postgresql")
    assert not TLSPolicy.of(Settings.of(), address).wanted


def test_the_context_checks_what_the_mode_says() -> None:
    """Strict by default; an old TLS version is never spoken."""
    full = TLSPolicy("verify-full").context()
    assert full is not None
    assert (full.check_hostname, full.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert full.minimum_version is ssl.TLSVersion.TLSv1_2
    authority = TLSPolicy("verify-ca").context()
    assert authority is not None
    assert (authority.check_hostname, authority.verify_mode) == (False, ssl.CERT_REQUIRED)
    anybody = TLSPolicy("require").context()
    assert anybody is not None and anybody.verify_mode == ssl.CERT_NONE
    assert TLSPolicy("disable").context() is None


@pytest.mark.parametrize(
    ("code", "said"),
    [(10, "has expired: renew it"), (9, "clock"), (62, "host name"), (64, "host name"), (20, "CA")],
)
def test_a_certificate_that_is_refused_comes_with_the_remedy_of_its_cause(
    code: int, said: str
) -> None:
    """An expired one was answered with the advice to name its CA."""
    error = ssl.SSLCertVerificationError("refused")
    error.verify_code, error.verify_message = code, "as OpenSSL says it"
    failure = str(_not_trusted("hub:5432", error))
    assert said in failure
    assert code == 20 or "DB_SSLROOTCERT" not in failure
