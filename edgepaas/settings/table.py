# SPDX-License-Identifier: Apache-2.0
"""The table: every setting, declared once. Parsing, errors, templates and the reference use it."""

from types import MappingProxyType

from edgepaas.settings.declare import flag, integer, percent, seconds, size
from edgepaas.settings.kinds import Setting

_MIB = 1024**2
_GIB = 1024**3
_DAY = 86400


_GENERAL = (
    Setting(
        "ENV",
        "choice",
        "development",
        "What this box is used for. In production, writes need a token, and a contradiction"
        " in the settings stops the start; in development it is a warning. The package and"
        " the image set production.",
        choices=("development", "staging", "production"),
        aliases=(("dev", "development"), ("prod", "production"), ("stage", "staging")),
        if_malformed="production",  # a mistyped value must not open a production box
    ),
    Setting(
        "EDGEPAAS_APP",
        "text",
        "telemetry",
        "The application that this box runs: the name of an entry point of the group"
        " edgepaas.application, or module:attribute.",
    ),
    Setting(
        "NODE_NAME",
        "text",
        "",
        "The name by which logs, alerts and answers call this box.",
        derived="the host name",
    ),
    Setting(
        "TZ",
        "timezone",
        "UTC",
        "Alerts and what commands print give times in this zone, with its offset; the API, JSON,"
        " exports and logs are in UTC.",
    ),
    Setting(
        "LOG_LEVEL",
        "choice",
        "INFO",
        "Messages below this severity are not logged.",
        choices=("DEBUG", "INFO", "WARNING", "ERROR"),
        aliases=(("warn", "WARNING"), ("critical", "ERROR"), ("fatal", "ERROR")),
    ),
    Setting(
        "LOG_FORMAT",
        "choice",
        "text",
        "A log line is written as key=value pairs (text) or as one JSON object (json).",
        choices=("text", "json"),
        aliases=(("keyvalue", "text"), ("logfmt", "text")),
    ),
    Setting(
        "LOG_FILE",
        "log_file",
        "",
        "The log is also written to this file, rotated at 5 MB, five files.",
        derived="edgepaas.log in the logs folder",
    ),
)

_SERVICE = (
    Setting(
        "HOST",
        "host",
        "::",
        "The service listens on this address: :: is every one of IPv4 and IPv6, 0.0.0.0 every one"
        " of IPv4 alone.",
        derived="127.0.0.1 when ENV=development, else ::",
    ),
    integer("PORT", 8080, 1, 65535, "The service listens on this TCP port."),
    integer("THREADS", 4, 1, 64, "Number of requests processed at the same time."),
    Setting(
        "CPU_PIN",
        "core",
        "auto",
        "The service's process is held to one core, on which Python's threads do several times"
        " the work that they do across cores: auto takes the one that others use least, off"
        " holds it to none.",
        minimum=0,
        maximum=8191,
    ),
    integer(
        "CONNECTION_LIMIT",
        100,
        4,
        10000,
        "Number of client connections that may be open at the same time.",
    ),
    integer(
        "CONNECTIONS_PER_CLIENT",
        25,
        1,
        10000,
        "Number of them that one address may hold on which it has shown no token; a loopback"
        " address leaves so many to others, and TRUSTED_PROXIES may hold all.",
    ),
    seconds(
        "STOP_TIMEOUT", "20", 0, 3600, "A stopping service waits this long for requests to end."
    ),
    size("REQUEST_MAX_BYTES", 8 * _MIB, 1024, _GIB, "A longer request body is refused with 413."),
)

_ACCESS = (
    flag(
        "AUTH_REQUIRED",
        "true",
        "true: writes need a token, and so do reads from beyond loopback, and from programs on"
        " it that are not root's or edgepaas's own.",
        derived="true unless ENV=development",
    ),
    Setting(
        "TRUSTED_PROXIES",
        "networks",
        "",
        "Reverse proxies connect from these addresses, e.g. 127.0.0.1, ::1: a request from there is"
        " its client's, by the last address in X-Forwarded-For that is no proxy's, and never"
        " one of the box's own.",
        off=True,
    ),
    flag("HEALTH_AUTH", "false", "true: /health and /ready need a token, too."),
    Setting(
        "RATE_LIMIT",
        "number",
        "200",
        "Number of requests per second that one client may make; loopback is not limited.",
        "requests/s",
        minimum=0,
        maximum=1_000_000,
        off=True,
    ),
    integer(
        "RATE_BURST",
        400,
        1,
        1_000_000,
        "Number of requests that one client may make at once before RATE_LIMIT applies.",
    ),
    flag("CORS_ENABLED", "false", "true: web pages of CORS_ORIGINS may call this box."),
    Setting(
        "CORS_ORIGINS",
        "list",
        "",
        "Web pages of these origins may call this box, e.g. https://console.example.org; * is any.",
        off=True,
    ),
)

_DATABASE = (
    Setting(
        "DATABASE_URL",
        "database_url",
        "",
        "The box serves from this PostgreSQL, or forwards its rows to it; empty: SQLite alone.",
        secret=True,
        off=True,
    ),
    Setting(
        "DATABASE__HOST",
        "hosts",
        "",
        "The host of PostgreSQL, or those of its cluster, where DATABASE_URL is not given.",
    ),
    integer("DATABASE__PORT", 5432, 1, 65535, "The port of PostgreSQL."),
    Setting("DATABASE__DATABASE", "text", "edgepaas", "The name of the database in PostgreSQL."),
    Setting(
        "DATABASE__USERNAME", "text", "edgepaas", "The user by which the box logs in to PostgreSQL."
    ),
    Setting(
        "DATABASE__PASSWORD",
        "text",
        "",
        "The password of that user; it is also used where DATABASE_URL holds none.",
        secret=True,
    ),
    Setting(
        "DATABASE_URL_SQLITE",
        "sqlite_url",
        "",
        "The file of the embedded database (SQLite).",
        derived="edgepaas.db in the state folder",
    ),
    flag(
        "USE_SQLITE",
        "false",
        "true: SQLite serves although DATABASE_URL is set; PostgreSQL receives every row.",
    ),
    flag(
        "BOTH_DB",
        "false",
        "true: SQLite serves while PostgreSQL is away; false: only PostgreSQL serves.",
        derived="true when there is a PostgreSQL to use",
    ),
    flag("RUN_MIGRATIONS", "true", "true: this box migrates the schema of PostgreSQL."),
    Setting(
        "DB_SSLMODE",
        "choice",
        "auto",
        "TLS is used like this towards PostgreSQL; auto: verify-full, or disable on this box.",
        choices=("auto", "disable", "prefer", "require", "verify-ca", "verify-full"),
        aliases=(("allow", "prefer"), ("verify_ca", "verify-ca"), ("verify_full", "verify-full")),
    ),
    Setting(
        "DB_SSLROOTCERT",
        "path",
        "",
        "A file of certificates (PEM): these authorities may sign PostgreSQL's certificate.",
        derived="the system's",
    ),
    seconds(
        "DB_CONNECT_TIMEOUT",
        "3",
        0.1,
        60,
        "One attempt to connect may take this long, or a login's round trips on a slow link.",
    ),
    integer(
        "MAX_RETRIES",
        6,
        1,
        100,
        "The decision tries PostgreSQL so often at boot, all within DECISION_DEADLINE.",
    ),
    seconds(
        "RETRY_INTERVAL",
        "3",
        0,
        300,
        "The decision waits this long between two attempts, give or take some jitter.",
    ),
    seconds(
        "DECISION_DEADLINE",
        "10",
        1,
        600,
        "The decision between PostgreSQL and SQLite is made within this time.",
    ),
    integer(
        "DB_POOL_SIZE",
        5,
        1,
        200,
        "Number of connections to PostgreSQL that stay open for a minute after their last use.",
    ),
    integer(
        "DB_MAX_OVERFLOW",
        10,
        0,
        200,
        "Number of connections to PostgreSQL that may be opened beyond DB_POOL_SIZE.",
    ),
    seconds(
        "DB_POOL_RECYCLE",
        "3600",
        1,
        7 * _DAY,
        "A connection to PostgreSQL is replaced when it is this old.",
    ),
    seconds(
        "DB_STATEMENT_TIMEOUT",
        "10",
        0,
        _DAY,
        "PostgreSQL cancels a statement that takes longer.",
        off=True,
    ),
    seconds(
        "WRITE_PATIENCE",
        "10",
        0.1,
        _DAY,
        "SQLite takes over when PostgreSQL has refused every write to a table for this long, for"
        " a cause of its own: a missing right, a lock, a changed table.",
    ),
    seconds(
        "POSTGRES_HOLD",
        "60",
        1,
        _DAY,
        "PostgreSQL is not retried for this long after it was found unusable.",
    ),
)

_FORWARDING = (
    seconds(
        "HANDBACK_AFTER",
        "30",
        0,
        _DAY,
        "PostgreSQL serves again after it has taken writes for this long.",
    ),
    integer(
        "HANDBACK_ROWS",
        100,
        0,
        100_000,
        "PostgreSQL serves again only while no more rows than this wait, or they are soon sent.",
    ),
    integer(
        "HANDBACK_PER_HOUR", 6, 1, 3600, "PostgreSQL is handed back to at most so often in an hour."
    ),
    seconds(
        "FENCE_DEADLINE",
        "3",
        0.1,
        60,
        "Writes are refused for at most this long, or eight round trips, while the rest is sent.",
    ),
    seconds(
        "MIRROR_INTERVAL", "10", 0.1, _DAY, "Shared tables are compared with PostgreSQL this often."
    ),
    seconds(
        "HEARTBEAT_INTERVAL",
        "15",
        1,
        _DAY,
        "The box reports itself to PostgreSQL (table nodes) this often.",
    ),
    integer(
        "SYNC_BATCH",
        5000,
        1,
        100_000,
        "Maximum number of rows that one transaction sends to PostgreSQL.",
    ),
    flag(
        "JOURNAL",
        "true",
        "true: what PostgreSQL acknowledges while it serves is also kept on the box, so that it"
        " can be sent again if PostgreSQL loses it; it takes at most half of DISK_BUDGET.",
    ),
    seconds(
        "RETENTION",
        "1209600",
        0,
        3650 * _DAY,
        "Facts that PostgreSQL has confirmed stay on the box for this long.",
    ),
    seconds(
        "AUDIT_INTERVAL",
        "86400",
        0,
        365 * _DAY,
        "The box compares the content of its rows with PostgreSQL's this often, and after each"
        " return and each restore of PostgreSQL: what is missing there is sent again, of"
        " whatever else does not add up an alert tells. 0: only 'edgepaas audit' does.",
    ),
    integer(
        "AUDIT_ROWS",
        100_000,
        1,
        1_000_000_000,
        "Such an audit, and 'edgepaas audit' without --deep, compares so many rows of each table"
        " of facts: the latest, and by itself older ones in turn.",
    ),
    size(
        "DISK_BUDGET",
        0,
        0,
        1024 * _GIB,
        "The SQLite file and the journal may take this much of the disk: an alert is raised at"
        " 70 % of it, LOW_VALUE rows are shed at 85 %, writes are refused with 507 at 95 %, and one"
        " that would not fit is refused before; SQLite's log (-wal) comes on top, up to 16 MiB;"
        " 0: 1 GiB or 20 % of the file system, the smaller.",
    ),
    size(
        "BALLAST",
        8 * _MIB,
        0,
        _GIB,
        "This much of the disk is kept back and given up when the disk is full.",
        off=True,
    ),
    Setting(
        "LOW_VALUE",
        "list",
        "",
        "These rows may be deleted unsent when DISK_BUDGET is nearly used up: a table, or"
        " table:column=value, e.g. readings:metric=debug.",
        off=True,
    ),
)

_ALERTS = (
    Setting(
        "ALERT_WEBHOOK_URL",
        "http_url",
        "",
        "Alerts are posted to this address first.",
        secret=True,
        off=True,
    ),
    Setting(
        "ALERT_WEBHOOK_FORMAT",
        "choice",
        "auto",
        "The body of an alert has this format; auto: the address tells which.",
        choices=("auto", "json", "slack", "discord", "teams", "ntfy", "pagerduty", "alertmanager"),
    ),
    Setting(
        "ALERT_WEBHOOK_TOKEN",
        "text",
        "",
        "PagerDuty's routing key; to every other receiver it is sent as a bearer token.",
        secret=True,
    ),
    Setting(
        "ALERT_WEBHOOK_SECRET",
        "text",
        "",
        "This secret signs the body (HMAC-SHA256) in the header X-EdgePaaS-Signature.",
        secret=True,
    ),
    Setting(
        "ALERT_EMAIL_TO",
        "list",
        "",
        "Alerts are mailed to these addresses when the webhook takes none.",
        off=True,
    ),
    Setting(
        "ALERT_EMAIL_FROM",
        "text",
        "",
        "The address from which alerts are mailed.",
        derived="SMTP__USERNAME where that is an address, else edgepaas@ the node's name where it"
        " has a dot, else edgepaas@ the domain of the first address of ALERT_EMAIL_TO",
    ),
    Setting(
        "ALERT_PROXY",
        "proxy_url",
        "",
        "The webhook and the heartbeat are reached through this HTTP proxy; empty: through those"
        " of the process environment (HTTPS_PROXY, NO_PROXY).",
        secret=True,
        off=True,
    ),
    flag(
        "ALERT_LOG_ONLY",
        "false",
        "true: the log is watched, and a box without webhook and e-mail is not degraded by that.",
    ),
    Setting("SMTP__HOST", "host", "", "Alerts are mailed through this server."),
    Setting(
        "SMTP__HELO",
        "host",
        "",
        "The box greets the mail server by this name.",
        derived="the host name where it has a dot, else the address of the connection",
    ),
    integer("SMTP__PORT", 587, 1, 65535, "The port of the mail server."),
    Setting(
        "SMTP__SECURITY",
        "choice",
        "starttls",
        "TLS is used like this towards the mail server, whose certificate is verified.",
        choices=("starttls", "tls", "none"),
    ),
    Setting(
        "SMTP__USERNAME",
        "text",
        "",
        "The user by which the box logs in to the mail server; empty: no login.",
    ),
    Setting("SMTP__PASSWORD", "text", "", "The password of that user.", secret=True),
    seconds("ALERT_TIMEOUT", "10", 0.1, 300, "One delivery of an alert may take this long."),
    seconds(
        "ALERT_WINDOW",
        "600",
        0,
        _DAY,
        "The same alert, raised again within this time, is counted and not sent again.",
    ),
    integer(
        "ALERT_SPOOL_FILES", 10_000, 10, 1_000_000, "Number of alerts that may wait in the spool."
    ),
    size(
        "ALERT_SPOOL_SIZE",
        64 * _MIB,
        _MIB,
        64 * _GIB,
        "The alerts that wait may take this much of the disk.",
    ),
    Setting(
        "ALERT_HEARTBEAT_URL",
        "http_url",
        "",
        "The box requests this address regularly while it is well; a service that misses the"
        " request notices a silent box.",
        secret=True,
        off=True,
    ),
    seconds(
        "ALERT_HEARTBEAT_INTERVAL",
        "300",
        10,
        _DAY,
        "The box requests ALERT_HEARTBEAT_URL this often.",
    ),
)

_THRESHOLDS = (
    percent("CPU_THRESHOLD", "Processor"),
    percent("MEMORY_THRESHOLD", "Memory"),
    percent("DISK_THRESHOLD", "Disk space"),
    Setting(
        "TEMPERATURE_THRESHOLD",
        "number",
        "85",
        "/health/system is 503 above this temperature.",
        "°C",
        minimum=1,
        maximum=150,
    ),
    size(
        "DISK_MIN_FREE",
        16 * _MIB,
        0,
        1024 * _GIB,
        "The box is full while less of the disk than this is free.",
        off=True,
    ),
)

_HEALTH = (
    seconds("HEALTH_CACHE", "1.5", 0, 60, "The result of a check is used again for this long."),
    seconds("HEALTH_TIMEOUT", "2", 0.1, 60, "A check that takes longer than this has failed."),
)

_SERVICES = (
    Setting(
        "REQUIRED_SERVICES",
        "services",
        "",
        "The box is not ready while one of these services does not answer: name=address, or"
        " the name of a service that NAME__HOST and NAME__PORT declare.",
        off=True,
    ),
    Setting(
        "OPTIONAL_SERVICES",
        "services",
        "",
        "These services are watched and reported; NAME__HOST and NAME__PORT declare another one.",
        off=True,
    ),
    seconds(
        "SERVICE_TIMEOUT", "2", 0.1, 60, "A service that does not answer within this time is away."
    ),
    Setting(
        "REDIS__HOST", "host", "", "The host of a Redis, which is watched as the service redis."
    ),
    integer("REDIS__PORT", 6379, 1, 65535, "The port of that Redis."),
    Setting(
        "REDIS__PASSWORD",
        "text",
        "",
        "The password of that Redis; without REDIS__HOST, of each one that is watched.",
        secret=True,
    ),
)

_VAULT = (
    flag("VAULT__ENABLED", "false", "true: settings are read from Vault or OpenBao, too."),
    Setting(
        "VAULT__URL", "http_url", "", "The address of Vault, e.g. https://vault.example.org:8200."
    ),
    Setting("VAULT__TOKEN", "text", "", "This token may read VAULT__PATH.", secret=True),
    Setting(
        "VAULT__PATH",
        "text",
        "secret/data/edgepaas",
        "The keys of this secret (KV version 2) are settings; secret/edgepaas is understood.",
    ),
    Setting(
        "VAULT__CACERT",
        "path",
        "",
        "A file of certificates (PEM): these authorities may sign Vault's certificate.",
        derived="the system's",
    ),
    seconds(
        "VAULT__TIMEOUT",
        "3",
        0.1,
        60,
        "Vault is given up when it does not answer within this time.",
    ),
)

#: Channel of alerts → the settings without which it is not set up; who sets the first wants it.
CHANNEL_SETTINGS = MappingProxyType(
    {"webhook": ("ALERT_WEBHOOK_URL",), "email": ("ALERT_EMAIL_TO", "SMTP__HOST")}
)

#: Section's title → its settings, in the order of the references.
SECTIONS = MappingProxyType(
    {
        "General": _GENERAL,
        "Service": _SERVICE,
        "Access": _ACCESS,
        "Database": _DATABASE,
        "Forwarding": _FORWARDING,
        "Alerts": _ALERTS,
        "Thresholds": _THRESHOLDS,
        "Health": _HEALTH,
        "Services": _SERVICES,
        "Vault and OpenBao": _VAULT,
    }
)

#: Name → setting, in the order of the references.
SETTINGS = MappingProxyType({s.name: s for group in SECTIONS.values() for s in group})
