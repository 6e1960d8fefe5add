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
        "postgresql://u:geheim@h1,h2/d",
        "postgresql://u:geheim@/d?host=h1,h2",
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
        ("sqlite:///x.db", True),
        ("postgres://10.0.0.1/d", False),
        ("postgres://localhost.example.org/d", False),
    ],
)
def test_whether_it_is_on_this_box(text: str, *, local: bool) -> None:
    assert split_url(text).on_this_box is local


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
