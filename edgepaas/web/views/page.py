# SPDX-License-Identifier: Apache-2.0
"""The page at ``/`` for people: what this box is, how it is, where to go on.

One document, no script, nothing from elsewhere; its style is allowed by its hash, so
that the strictest content security policy still shows it. Written with plain string
substitution: a template engine's environment is memory that a box is not asked for.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from html import escape

from edgepaas.app import BoxState
from edgepaas.health.checks import CheckResult
from edgepaas.outbox.forwarding_state import display_lines

#: Which colour a state has. What is not here is red: degraded, full, stopping.
_CALM = frozenset({"standalone", "primary", "local-first"})
_BUSY = frozenset({"starting", "draining", "fallback"})

STYLE = """
:root{color-scheme:light dark;--ink:#1b2430;--soft:#5b6776;--line:#dde3ea;--paper:#f5f7fa;
--card:#fff;--link:#0b5cad;--good:#187a43;--goodbg:#e2f4e9;--busy:#8a5a00;--busybg:#fdf1d8;
--bad:#b3261e;--badbg:#fde7e5}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf1;--soft:#9aa7b6;--line:#2c3642;
--paper:#12171d;--card:#1a212a;--link:#7db8f5;--good:#7fd6a2;--goodbg:#163524;--busy:#f0c674;
--busybg:#3a2e12;--bad:#ff9d95;--badbg:#43201d}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:56rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{margin:0;font-size:1.75rem;letter-spacing:-.01em}
h2{margin:2.25rem 0 .6rem;font-size:1.05rem}
p{margin:.35rem 0}
.soft{color:var(--soft)}
.card{background:var(--card);border:1px solid var(--line);border-radius:.75rem;
padding:1.1rem 1.25rem;margin-top:1.25rem}
.state{display:inline-block;padding:.15rem .7rem;border-radius:1rem;font-weight:600}
.good{color:var(--good);background:var(--goodbg)}
.busy{color:var(--busy);background:var(--busybg)}
.bad{color:var(--bad);background:var(--badbg)}
ul.reasons{margin:.7rem 0 0;padding-left:1.15rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.94rem}
td,th{text-align:left;vertical-align:top;padding:.45rem .9rem .45rem 0;
border-top:1px solid var(--line)}
tr:first-child td,tr:first-child th{border-top:0}
th{font-weight:600;white-space:nowrap}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
td,th{overflow-wrap:anywhere}
code.path{white-space:nowrap}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}
@media(max-width:40rem){tr,td,th{display:block;border:0;padding:.12rem 0}
tr{border-top:1px solid var(--line);padding:.55rem 0}tr:first-child{border-top:0}}
a{color:var(--link);text-decoration:none}
a:hover,a:focus{text-decoration:underline}
footer{margin-top:2.5rem;font-size:.88rem}
"""


def page_policy() -> str:
    """Return the Content-Security-Policy that allows the page's own style and nothing else."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )


def render_page(
    *,
    name: str,
    build_version: str,
    state: BoxState,
    checks: Iterable[CheckResult],
    endpoints: Iterable[tuple[str, str, str]],
    example: str = "",
    addresses: Iterable[str] = (),
) -> str:
    """Return the page; *endpoints* are (methods, path, what it is for), *example* a command.

    *addresses*: where other machines reach the box.
    """
    reached = " ".join(f"<code>{escape(url)}</code>" for url in addresses)
    tone = "good" if state.state in _CALM else "busy" if state.state in _BUSY else "bad"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in state.reasons)
    attempt = f'<h2>Try it</h2>\n<div class="card"><pre><code>{escape(example)}</code></pre></div>'
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(name)} on EdgePaaS</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(name)}</h1>
<p class="soft">An application on an EdgePaaS box. It keeps every write it has acknowledged.</p>
<div class="card">
<p><span class="state {tone}">{escape(state.state)}</span>
<span class="soft">{escape(_MEANING.get(state.state, ""))}</span></p>
<ul class="reasons">{reasons}</ul>
{f'<p class="soft">Reached at {reached}</p>' if reached else ""}
</div>
{_forwarding(state.forwarding)}
<h2>Checks</h2>
<div class="card wide"><table>{_check_rows(checks)}</table></div>
{attempt if example else ""}
<h2>Where to go on</h2>
<div class="card wide"><table>{_endpoint_rows(endpoints)}</table></div>
<footer class="soft">Build <code>{escape(build_version)}</code> &middot;
programs get this page as JSON: <code>Accept: application/json</code></footer>
</main>
</body>
</html>
"""


def _forwarding(found: Mapping[str, object] | None) -> str:
    """Return the card about the forwarding state; nothing where there is none."""
    if found is None:
        return ""
    rows = "".join(
        f"<tr><th>{escape(label)}</th><td>{escape(text)}</td></tr>"
        for label, text in display_lines(found)
    )
    return f'<h2>Rows on their way</h2>\n<div class="card wide"><table>{rows}</table></div>'


def _check_rows(checks: Iterable[CheckResult]) -> str:
    rows = [
        f"<tr><th>{escape(check.name)}</th><td>{_mark(check)}</td>"
        f"<td>{escape(check.message)}</td></tr>"
        for check in checks
    ]
    return "".join(rows) or '<tr><td class="soft">Nothing was checked yet.</td></tr>'


def _mark(check: CheckResult) -> str:
    if check.ok:
        return '<span class="state good">ok</span>'
    if check.required:
        return '<span class="state bad">failed</span>'
    return '<span class="state busy">warning</span>'


def _endpoint_rows(endpoints: Iterable[tuple[str, str, str]]) -> str:
    rows = []
    for methods, path, purpose in endpoints:
        link = f'<code class="path">{escape(path)}</code>'
        if "GET" in methods.split() and "{" not in path:
            link = f'<a href="{escape(path, quote=True)}">{link}</a>'
        rows.append(
            f"<tr><td>{link}</td><td><code>{escape(methods)}</code></td>"
            f'<td class="soft">{escape(purpose)}</td></tr>'
        )
    return "".join(rows)


_MEANING = {
    "starting": "not serving yet",
    "stopping": "finishing what is open",
    "full": "the disk is full: reading works, writing is refused",
    "degraded": "serving, and something needs an operator",
    "draining": "PostgreSQL is back, rows are going home",
    "fallback": "SQLite serves because PostgreSQL is away",
    "local-first": "SQLite serves although there is a PostgreSQL",
    "primary": "PostgreSQL serves",
    "standalone": "SQLite serves; no PostgreSQL is configured",
}
