# SPDX-License-Identifier: Apache-2.0
"""Database addresses: the forms that are read, refused and masked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepaas.settings import Address, AddressError, split_url

CANONICAL = "postgresql://u:p@db.example:5432/app"


@pytest.mark.parametrize(
    "text",
    [
        "postgres://u:p@db.example/app",
        "postgresql://u:p@db.example:5432/app",
        "postgresql+psycopg2://u:p@db.example/app",
        "postgresql+pg8000://u:p@db.example/app",
        "PostgreSQL://u:p@db.example/app",
        "  postgres://u:p@db.example/app\n",
        "jdbc:postgresql://db.example/app?user=u&password=p",
        "postgresql:///app?host=db.example&port=5432&user=u&password=p",
        "postgresql://u:p@db.example?dbname=app",
    ],
)
def test_all_forms_of_one_address_become_one_url(text: str) -> None:
    assert split_url(text).url() == CANONICAL


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "postgres://us%40er:p%2F%3A%40%23@h/d%20b",
            Address("postgresql", "h", 5432, "d b", "us@er", "p/:@#"),
        ),
        ("postgres://u:p@ss@h/d", Address("postgresql", "h", 5432, "d", "u", "p@ss")),
        ("postgres://u@[::1]:6000/d", Address("postgresql", "::1", 6000, "d", "u")),
        ("postgres://u@[fe80::1%eth0]/d", Address("postgresql", "fe80::1%eth0", 5432, "d", "u")),
        (
            "postgres:///d?host=/var/run/postgresql&user=u",
            Address("postgresql", "/var/run/postgresql", 5432, "d", "u"),
        ),
        ("postgres://u@%2Frun%2Fpg/d", Address("postgresql", "/run/pg", 5432, "d", "u")),
        ("postgres://bob@h", Address("postgresql", "h", 5432, "bob", "bob")),
        ("postgres://", Address("postgresql", "localhost", 5432)),
        (
            "postgres://u@h/d?sslmode=require&application_name=a%20b",
            Address(
                "postgresql",
                "h",
                5432,
                "d",
                "u",
                params={"sslmode": "require", "application_name": "a b"},
            ),
        ),
        ("sqlite:////var/lib/x.db", Address("sqlite", database="/var/lib/x.db")),
        ("sqlite:///x.db", Address("sqlite", database="x.db")),
        ("sqlite+pysqlite:///x.db", Address("sqlite", database="x.db")),
        ("sqlite:/var/x.db", Address("sqlite", database="/var/x.db")),
        ("sqlite:x.db", Address("sqlite", database="x.db")),
    ],
)
def test_an_address_is_taken_apart_and_put_together_again(text: str, expected: Address) -> None:
    address = split_url(text)
    assert address == expected
    assert split_url(address.url()) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "postgres",
        "host=db dbname=x password=geheim",
        "mysql://u:geheim@h/d",
        "http://u:geheim@h/d",
        "postgresql:u:geheim@h/d",
        "postgresql://u:ge/heim@h/d",
        "postgresql://u:ge?heim@h/d",
        "postgresql://u:geheim@h1,,h2/d",
        "postgresql://u:geheim@/d?host=h1,",
        "postgresql://u:geheim@h1,h2/d?port=1,2,3",
        "postgresql://u:geheim@h1,h2:99999/d",
        "postgresql://u:geheim@h1,[zz]/d",
        "postgresql://u:geheim@h1,h2/d?hostaddr=10.0.0.1",
        "postgresql://u:geheim@h/d?hostaddr=name",
        "postgresql://u:geheim@h1,h2/d?target_session_attrs=standby",
        "postgresql://u:geheim@h1,h2/d?target_session_attrs=prefer-standby",
        "postgresql://u:geheim@h1,h2/d?target_session_attrs=read-only",
        "postgresql://u:geheim@" + ",".join(f"h{n}" for n in range(17)) + "/d",
        "postgresql://u:geheim@h:port/d",
        "postgresql://u:geheim@h:99999/d",
        "postgresql://u:geheim@h:0/d",
        "postgresql://u:geheim@::1/d",
        "postgresql://u:geheim@[::1/d",
        "postgresql://u:geheim@[zz]/d",
        "postgresql://u:geheim@h h/d",
        "postgresql://u:geheim%00@h/d",
        "postgresql://u:geheim%ff@h/d",
        "postgresql://u:geheim@h/d\0",
        "postgresql://u:geheim@h/d?a=%00",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite://host/x.db",
    ],
)
def test_what_cannot_be_read_is_refused_without_repeating_the_password(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        split_url(text)
    assert "heim" not in str(caught.value)


def test_a_masked_address_shows_no_password() -> None:
    address = split_url("postgres://u:geheim@h/d?sslpassword=geheim2&sslmode=require")
    assert address.masked() == "postgresql://u:****@h:5432/d?sslpassword=****&sslmode=require"
    assert "geheim" not in repr(address).replace("geheim2", "")


def test_a_unix_socket_has_its_path() -> None:
    address = split_url("postgres:///d?host=/run/pg&port=6000")
    assert address.unix_socket == "/run/pg/.s.PGSQL.6000"


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("postgres://localhost/d", True),
        ("postgres://127.0.0.2/d", True),
        ("postgres://[::1]/d", True),
        ("postgres:///d?host=/run/pg", True),
        ("postgres://localhost,127.0.0.1:1/d", True),
        ("postgres://localhost,h/d", False),
        ("postgres://localhost/d?hostaddr=10.0.0.1", False),
        ("postgres:///d?hostaddr=10.0.0.1", False),
        ("sqlite:///x.db", True),
        ("postgres://10.0.0.1/d", False),
        ("postgres://localhost.example.org/d", False),
    ],
)
def test_whether_it_is_on_this_box(text: str, *, local: bool) -> None:
    assert split_url(text).on_this_box is local


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("u@h1:5433,h2/d", [("h1", 5433), ("h2", 5432)]),
        ("u@h1,h2/d?port=6000", [("h1", 6000), ("h2", 6000)]),
        ("u@h1,h2/d?port=6000,", [("h1", 6000), ("h2", 5432)]),
        ("u@[::1]:1,[fe80::1%eth0],h3:3/d", [("::1", 1), ("fe80::1%eth0", 5432), ("h3", 3)]),
        ("u@/d?host=h1,h2,h3&port=1,2,3", [("h1", 1), ("h2", 2), ("h3", 3)]),
        ("u@/d?host=h1,/run/pg", [("h1", 5432), ("/run/pg", 5432)]),
        ("u@/d?hostaddr=10.0.0.1,::1", [("10.0.0.1", 5432), ("::1", 5432)]),
        ("u@a,b/d?hostaddr=10.0.0.1,10.0.0.2", [("a", 5432), ("b", 5432)]),
    ],
)
def test_several_hosts_are_read_as_libpq_reads_them(
    text: str, expected: list[tuple[str, int]]
) -> None:
    address = split_url(f"postgresql://{text}")
    assert [(host.host, host.port) for host in address.hosts()] == expected
    assert all(host.further == () and host.database == "d" for host in address.hosts())
    assert split_url(address.url()) == address


def test_each_host_has_its_own_numeric_address() -> None:
    address = split_url("postgresql://u@a,b,c/d?hostaddr=10.0.0.1,,10.0.0.3&sslmode=require")
    assert [host.params for host in address.hosts()] == [
        {"sslmode": "require", "hostaddr": "10.0.0.1"},
        {"sslmode": "require"},
        {"sslmode": "require", "hostaddr": "10.0.0.3"},
    ]


@pytest.mark.parametrize(
    ("text", "writable"),
    [
        ("u@h/d", False),
        ("u@h/d?target_session_attrs=read-write", True),
        ("u@h1,h2/d", True),
        ("u@h1,h2/d?target_session_attrs=primary", True),
        ("u@h1,h2/d?target_session_attrs=any", False),
    ],
)
def test_of_several_hosts_the_one_that_takes_writes_is_meant(text: str, *, writable: bool) -> None:
    assert split_url(f"postgresql://{text}").must_be_writable is writable


def test_several_hosts_are_masked_together() -> None:
    address = split_url("postgresql://u:geheim@h1,h2:5433/d?target_session_attrs=read-write")
    assert address.masked() == (
        "postgresql://u:****@h1:5432,h2:5433/d?target_session_attrs=read-write"
    )


@given(st.text(max_size=80))
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    for candidate in (text, f"postgres://{text}", f"sqlite:{text}"):
        try:
            address = split_url(candidate)
        except AddressError:
            continue
        assert split_url(address.url()) == address


_PART = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


@given(_PART, _PART, _PART)
def test_any_user_password_and_database_survive(user: str, password: str, database: str) -> None:
    address = Address("postgresql", "h", 5432, database, user, password)
    assert split_url(address.url()) == address
