# SPDX-License-Identifier: Apache-2.0
"""What of a secret setting is secret by itself: the parts of an address beside its host.

A server repeats what it was asked for, and that is seldom the whole address: a web server names
the path, PostgreSQL the user.
"""

#: Parts of receivers' addresses that their documentation prints: nothing is hidden by them.
_PUBLIC_WORDS = """
    alert alerts api enqueue hook hooks incomingwebhook invoke manual notify paths post push run
    services slack trigger triggers v1 v2 v3 webhook webhookb2 webhooks workflow workflows
"""
_PUBLIC = frozenset(_PUBLIC_WORDS.split())
#: Parts that are shorter stand in every other line; the address as a whole is searched for.
_SHORTEST = 4


def secret_parts(value: str) -> list[str]:
    """Return *value* and, where it is an address, each part of it that nobody else may know."""
    scheme, mark, rest = value.partition("://")
    if not mark:
        return [value]
    from urllib.parse import parse_qsl, unquote, urlsplit

    try:
        parts = urlsplit(value)
        password, username = unquote(parts.password or ""), unquote(parts.username or "")
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:  # an unclosed bracket: no part of it is known
        return [value]
    if not scheme.lower().startswith("http"):
        # Who logs in where to which database is no secret, and neither is where a file lies.
        hidden = [text for name, text in query if "password" in name.lower()]
        return [value, *filter(None, [password, *hidden])]
    texts = [text or name for name, text in query]
    pieces = [unquote(piece) for piece in parts.path.split("/")]
    pieces = [piece for piece in pieces if piece.lower() not in _PUBLIC]
    found = [username, password, *pieces, *texts, unquote(parts.fragment)]
    tail = rest.partition("/")[2]
    whole = [f"/{tail}"] if tail and tail.lower() not in _PUBLIC else []
    return [value, *whole, *(part for part in found if len(part) >= _SHORTEST)]
