# SPDX-License-Identifier: Apache-2.0
"""Certificates that end soon are noticed 30 days before, whoever's they are."""

import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.alerts.catalogue import CERTIFICATE_ENDS
from edgepaas.health.certificates import CertificateWatch, not_after
from edgepaas.health.checks import CheckFailed, CheckResult
from edgepaas.health.gate import CERTIFICATES_CHECK
from edgepaas.service.watches.conditions import _of_check
from edgepaas.settings import Settings
from tests.support.tls_front import tls_front

DAY = 86400.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key and certificates that end in 40 days, and in 2060."""
    folder = tmp_path_factory.mktemp("certificates")
    for name, days in (("soon", "40"), ("late", "13000")):
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ),
                *("-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", days),
                *("-subj", "/CN=localhost"),
            ],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=60,
        )
    return folder


@pytest.fixture
def server(made: Path) -> Iterator[str]:
    """The address of a server that shows the certificate which ends in 40 days."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "soon.pem", made / "soon.key")
    with tls_front(context, 1) as port:
        yield f"postgresql://u@127.0.0.1:{port}/d"


def watch(url: str, days_later: float, **settings: str) -> CertificateWatch:
    given = Settings.of(DB_SSLMODE="require", **settings)
    return CertificateWatch(given, url, clock=lambda: time.time() + days_later * DAY)


@pytest.mark.parametrize("name", ["soon", "late"])
def test_the_end_is_what_openssl_says(made: Path, name: str) -> None:
    """Both forms of a time: UTCTime until 2049, GeneralizedTime afterwards."""
    der = ssl.PEM_cert_to_DER_cert((made / f"{name}.pem").read_text())
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-enddate", "-in", str(made / f"{name}.pem")],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.strip()
    assert not_after(der) == ssl.cert_time_to_seconds(shown.removeprefix("notAfter="))
    for cut in range(0, len(der), 17):
        with pytest.raises(ValueError, match=r"."):
            not_after(der[:cut])


def test_a_servers_certificate_is_named_before_it_ends(server: str) -> None:
    assert "in 3" in watch(server, 0)()
    with pytest.raises(CheckFailed, match=r"PostgreSQL's certificate on .* ends on .* in 9 d"):
        watch(server, 30)()
    with pytest.raises(CheckFailed, match="expired on") as failed:
        watch(server, 41)()
    assert failed.value.ready, "the box serves all the same"


def test_what_does_not_answer_counts_as_seen_last(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = 0.0
    found = watch(server, 0)
    found._clock = lambda: time.time() + later * DAY
    assert "in 3" in found()
    monkeypatch.setattr(found, "_of_server", lambda _host: None)
    later = 15
    with pytest.raises(CheckFailed, match="renew it"):
        found()
    nobody = watch("postgresql://u@127.0.0.1:1/d", 0)
    assert nobody() == "no certificate was seen yet"


def test_files_are_looked_at_too(made: Path) -> None:
    nowhere = "postgresql://u@127.0.0.1:1/d"
    ca = made / "bundle.pem"
    ca.write_text((made / "soon.pem").read_text())
    found = watch(nowhere, 20, DB_SSLROOTCERT=str(ca))
    with pytest.raises(CheckFailed, match="the CA certificate"):
        found()
    ca.write_text((made / "soon.pem").read_text() + (made / "late.pem").read_text())
    assert "the CA certificate" in found(), "one that is being renewed is in order"
    mine = f"{nowhere}?sslcert={made / 'soon.pem'}&sslkey={made / 'soon.key'}"
    with pytest.raises(CheckFailed, match="the client certificate"):
        watch(mine, 20)()


def test_it_is_a_condition_of_its_own_and_no_critical_one() -> None:
    result = CheckResult(CERTIFICATES_CHECK, False, "it ends", 0.1, True)
    condition = _of_check(result)
    assert condition.entry is CERTIFICATE_ENDS
    assert condition.fingerprint == "certificate-ends"
    assert (CERTIFICATE_ENDS.severity, condition.status) == ("warning", "broken")
