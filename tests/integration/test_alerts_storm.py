# SPDX-License-Identifier: Apache-2.0
"""Ten thousand alerts of five causes and real receivers: a handful of messages, exact counts.

1,000 without EDGEPAAS_SOAK=1.
"""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from edgepaas.alerts import counts, raise_alert, resolve_alert
from edgepaas.alerts.delivery.run import deliver_once
from edgepaas.files.paths import Paths
from edgepaas.settings import Settings
from tests.support.receivers import mail_server, receiving

ALERTS = 10_000 if os.environ.get("EDGEPAAS_SOAK") else 1_000


def test_thousands_of_alerts_of_five_causes_are_a_handful_of_messages(paths: Paths) -> None:
    with receiving(200) as receiver, ThreadPoolExecutor(1) as other:
        Settings.of(ALERT_WEBHOOK_URL=receiver.url, ALERT_SPOOL_FILES=str(ALERTS // 5)).write(
            paths.env_contract
        )
        delivering = None
        for number in range(ALERTS):
            raise_alert(f"number {number}", fingerprint=f"f{number % 5}", severity="critical")
            # As edgepaas-alerts.path does it; in between it is far behind on purpose.
            if number % (ALERTS // 4) == 100 and (delivering is None or delivering.done()):
                delivering = other.submit(deliver_once, paths, linger=0)
        if delivering is not None:
            delivering.result(60)
        for fingerprint in range(5):
            resolve_alert("it is over", fingerprint=f"f{fingerprint}")
        deliver_once(paths, linger=0)
    told: Counter[str] = Counter()
    for request in receiver.requests:
        document = request.document
        told[document["fingerprint"]] += document["new"]
    assert dict(told) == {f"f{number}": ALERTS // 5 for number in range(5)}
    assert len(receiver.requests) <= 10
    now = counts(paths)
    assert (now.open, now.waiting, now.dead, now.corrupt) == (0, 0, 0, 0)


def test_the_webhook_comes_first_then_e_mail_and_what_waited_goes_when_one_is_back(
    paths: Paths,
) -> None:
    with mail_server() as mail, receiving(200, 503, 200) as receiver:
        Settings.of(
            ALERT_WEBHOOK_URL=receiver.url,
            ALERT_EMAIL_TO="anna@example.org",
            SMTP__HOST="127.0.0.1",
            SMTP__PORT=str(mail.port),
            SMTP__SECURITY="none",
        ).write(paths.env_contract)
        raise_alert("one", fingerprint="1")
        deliver_once(paths, linger=0)
        raise_alert("two", fingerprint="2")
        deliver_once(paths, linger=0)
        mail.replies["MAIL"] = ["451 later"]
        raise_alert("three", fingerprint="3")
        deliver_once(paths, linger=0)
    said = [request.document["message"] for request in receiver.requests]
    mails = [str(message["Subject"]) for message in mail.mails]
    assert said == ["one", "two", "three"]
    assert [subject.rpartition(": ")[2] for subject in mails] == ["two"]
    assert mail.mails[0]["X-EdgePaaS-Key"] == receiver.keys[1]
