# SPDX-License-Identifier: Apache-2.0
"""The table: every setting once. Parsing, errors, templates and references come from it."""

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
        "What this box is for. Production asks for tokens and fails fast where development"
        " goes on with a warning; the package and the image set production.",
        choices=("development", "staging", "production"),
        aliases=(("dev", "development"), ("prod", "production"), ("stage", "staging")),
        if_malformed="production",  # a slip of the pen must not open a production box
    ),
    Setting(
        "EDGEPAAS_APP",
        "text",
        "telemetry",
        "The application: the name of an entry point of the group edgepaas.application, or"
        " module:attribute.",
    ),
    Setting(
        "NODE_NAME",
        "text",
        "",
        "This box's name in logs, alerts and answers.",
        derived="the host name",
    ),
    Setting("TZ", "timezone", "UTC", "The time zone of what people read; data is kept in UTC."),
    Setting(
        "LOG_LEVEL",
        "choice",
        "INFO",
        "The least severe messages that are logged.",
        choices=("DEBUG", "INFO", "WARNING", "ERROR"),
        aliases=(("warn", "WARNING"), ("critical", "ERROR"), ("fatal", "ERROR")),
    ),
    Setting(
        "LOG_FORMAT",
        "choice",
        "text",
        "How a log line is written: key=value pairs or one JSON object.",
        choices=("text", "json"),
        aliases=(("keyvalue", "text"), ("logfmt", "text")),
    ),
    Setting(
        "LOG_FILE",
        "log_file",
        "",
        "The log file beside the console (rotated, 5 MB x 5).",
        derived="edgepaas.log in the logs folder",
    ),
)

_SERVICE = (
    Setting(
        "HOST",
        "host",
        "0.0.0.0",
        "The address to listen on.",
        derived="127.0.0.1 when ENV=development, else 0.0.0.0",
    ),
    integer("PORT", 8080, 1, 65535, "The TCP port to listen on."),
    integer("THREADS", 4, 1, 64, "Requests that are worked on at the same time."),
    integer("CONNECTION_LIMIT", 100, 4, 10000, "Connections that are open at the same time."),
    seconds("STOP_TIMEOUT", "20", 0, 3600, "How long open requests may take when it stops."),
    size("REQUEST_MAX_BYTES", 8 * _MIB, 1024, _GIB, "The longest request body; beyond it, 413."),
)

_ACCESS = (
    flag(
        "AUTH_REQUIRED",
        "true",
        "Whether writes, and reads from beyond loopback, need a token.",
        derived="true unless ENV=development",
    ),
    flag("HEALTH_AUTH", "false", "Whether /health and /ready need a token too."),
    Setting(
        "RATE_LIMIT",
        "number",
        "200",
        "Requests a second that one client may make; loopback is not limited.",
        "requests/s",
        minimum=0,
        maximum=1_000_000,
        off=True,
    ),
    integer("RATE_BURST", 400, 1, 1_000_000, "Requests at once before RATE_LIMIT counts."),
    flag("CORS_ENABLED", "false", "Whether web pages of CORS_ORIGINS may call this box."),
    Setting(
        "CORS_ORIGINS",
        "list",
        "",
        "Origins, e.g. https://console.example.org; * is any.",
        off=True,
    ),
)

_DATABASE = (
    Setting(
        "DATABASE_URL",
        "database_url",
        "",
        "The PostgreSQL to serve from or to forward to; empty: SQLite alone.",
        secret=True,
        off=True,
    ),
    Setting("DATABASE__HOST", "host", "", "PostgreSQL's host, where DATABASE_URL is not given."),
    integer("DATABASE__PORT", 5432, 1, 65535, "PostgreSQL's port."),
    Setting("DATABASE__DATABASE", "text", "edgepaas", "The database's name."),
    Setting("DATABASE__USERNAME", "text", "edgepaas", "The user to log in as."),
    Setting(
        "DATABASE__PASSWORD",
        "text",
        "",
        "The user's password, also where DATABASE_URL has none.",
        secret=True,
    ),
    Setting(
        "DATABASE_URL_SQLITE",
        "sqlite_url",
        "",
        "The embedded database's file.",
        derived="edgepaas.db in the state folder",
    ),
    flag(
        "USE_SQLITE",
        "false",
        "true: SQLite serves although there is a DATABASE_URL, which receives every row.",
    ),
    flag(
        "BOTH_DB",
        "false",
        "true: SQLite takes over while PostgreSQL is away; false: PostgreSQL or nothing.",
        derived="true when there is a PostgreSQL to use",
    ),
    flag("RUN_MIGRATIONS", "true", "Whether this box migrates PostgreSQL's schema."),
    Setting(
        "DB_SSLMODE",
        "choice",
        "auto",
        "TLS to PostgreSQL; auto is verify-full off the box and disable on it.",
        choices=("auto", "disable", "prefer", "require", "verify-ca", "verify-full"),
        aliases=(("allow", "prefer"), ("verify_ca", "verify-ca"), ("verify_full", "verify-full")),
    ),
    Setting(
        "DB_SSLROOTCERT",
        "path",
        "",
        "Certificates (PEM) of the authorities that may sign PostgreSQL's certificate.",
        derived="the system's",
    ),
    seconds("DB_CONNECT_TIMEOUT", "3", 0.1, 60, "One attempt: name, TCP, TLS, login together."),
    integer("MAX_RETRIES", 6, 1, 100, "Attempts at boot, all within DECISION_DEADLINE."),
    seconds("RETRY_INTERVAL", "3", 0, 300, "The pause between two attempts, with jitter."),
    seconds("DECISION_DEADLINE", "10", 1, 600, "When the decision falls at the latest."),
    integer("DB_POOL_SIZE", 5, 1, 200, "PostgreSQL connections that are kept open for a minute."),
    integer("DB_MAX_OVERFLOW", 10, 0, 200, "PostgreSQL connections beyond DB_POOL_SIZE."),
    seconds("DB_POOL_RECYCLE", "3600", 1, 7 * _DAY, "The age at which one is replaced."),
    seconds("DB_STATEMENT_TIMEOUT", "10", 0, _DAY, "A statement's longest time.", off=True),
    seconds("POSTGRES_HOLD", "60", 1, _DAY, "PostgreSQL is let be so long when found unusable."),
)

_FORWARDING = (
    seconds("HANDBACK_AFTER", "30", 0, _DAY, "PostgreSQL must be good so long to serve again."),
    integer("HANDBACK_ROWS", 100, 0, 100_000, "It serves again when no more rows wait than this."),
    integer("HANDBACK_PER_HOUR", 6, 1, 3600, "Handing back more often in an hour is flapping."),
    seconds("FENCE_DEADLINE", "3", 0.1, 60, "Writes wait so long at most while it takes over."),
    seconds("MIRROR_INTERVAL", "10", 0.1, _DAY, "The pause between two looks at shared tables."),
    seconds("HEARTBEAT_INTERVAL", "15", 1, _DAY, "The pause between two entries in nodes."),
    integer("SYNC_BATCH", 5000, 1, 100_000, "Rows sent to PostgreSQL in one transaction."),
    seconds("RETENTION", "1209600", 0, 3650 * _DAY, "Delivered facts stay on the box so long."),
    size(
        "DISK_BUDGET",
        0,
        0,
        1024 * _GIB,
        "What the SQLite file may take: an alert at 70 %, shedding at 85 %, 507 at 95 %;"
        " 0: 1 GiB or 20 % of the file system, the smaller.",
    ),
    size("BALLAST", 8 * _MIB, 0, _GIB, "Kept back, to be given up on a full disk.", off=True),
    Setting(
        "LOW_VALUE",
        "list",
        "",
        "What may be shed unsent when the budget is nearly used up: table, or"
        " table:column=value, e.g. readings:metric=debug.",
        off=True,
    ),
)

_ALERTS = (
    Setting(
        "ALERT_WEBHOOK_URL",
        "http_url",
        "",
        "Where alerts are posted first.",
        secret=True,
        off=True,
    ),
    Setting(
        "ALERT_WEBHOOK_FORMAT",
        "choice",
        "auto",
        "The body's form; auto tells it by the address.",
        choices=("auto", "json", "slack", "discord", "teams"),
    ),
    Setting(
        "ALERT_WEBHOOK_SECRET",
        "text",
        "",
        "Signs the body (HMAC-SHA256) in the header X-EdgePaaS-Signature.",
        secret=True,
    ),
    Setting(
        "ALERT_EMAIL_TO",
        "list",
        "",
        "Whom to write to when the webhook takes nothing.",
        off=True,
    ),
    Setting("ALERT_EMAIL_FROM", "text", "", "The sender.", derived="edgepaas@ the node's name"),
    Setting("SMTP__HOST", "host", "", "The mail server that takes alerts."),
    integer("SMTP__PORT", 587, 1, 65535, "Its port."),
    Setting(
        "SMTP__SECURITY",
        "choice",
        "starttls",
        "How the way to it is secured; its certificate is verified.",
        choices=("starttls", "tls", "none"),
    ),
    Setting("SMTP__USERNAME", "text", "", "The user to log in as; empty: no login."),
    Setting("SMTP__PASSWORD", "text", "", "Its password.", secret=True),
    seconds("ALERT_TIMEOUT", "10", 0.1, 300, "How long one delivery may take."),
    seconds("ALERT_WINDOW", "600", 0, _DAY, "The same alert within it is one, with a count."),
    integer("ALERT_SPOOL_FILES", 10_000, 10, 1_000_000, "Alerts that may wait in the spool."),
    size("ALERT_SPOOL_SIZE", 64 * _MIB, _MIB, 64 * _GIB, "What they may take on the disk."),
    Setting(
        "ALERT_HEARTBEAT_URL",
        "http_url",
        "",
        "Asked for regularly while the box is well: whoever misses it notices a silent box.",
        secret=True,
        off=True,
    ),
    seconds("ALERT_HEARTBEAT_INTERVAL", "300", 10, _DAY, "The pause between two heartbeats."),
)

_THRESHOLDS = (
    percent("CPU_THRESHOLD", "Processor"),
    percent("MEMORY_THRESHOLD", "Memory"),
    percent("DISK_THRESHOLD", "Disk space"),
    Setting(
        "TEMPERATURE_THRESHOLD",
        "number",
        "85",
        "Temperature above which /health/system is 503.",
        "°C",
        minimum=1,
        maximum=150,
    ),
    size("DISK_MIN_FREE", 16 * _MIB, 0, 1024 * _GIB, "Less is not ready for traffic.", off=True),
)

_HEALTH = (
    seconds("HEALTH_CACHE", "1.5", 0, 60, "How long a check's result is given again."),
    seconds("HEALTH_TIMEOUT", "2", 0.1, 60, "A check that takes longer has failed."),
)

_SERVICES = (
    Setting(
        "REQUIRED_SERVICES",
        "services",
        "",
        "Services without which this box is not ready: name=address, or the name of one"
        " that NAME__HOST and NAME__PORT give.",
        off=True,
    ),
    Setting(
        "OPTIONAL_SERVICES",
        "services",
        "",
        "Services that are watched and reported, no more. NAME__HOST and NAME__PORT add one.",
        off=True,
    ),
    seconds("SERVICE_TIMEOUT", "2", 0.1, 60, "How long a service may take to answer."),
    Setting("REDIS__HOST", "host", "", "A Redis to watch, as the service redis."),
    integer("REDIS__PORT", 6379, 1, 65535, "Its port."),
    Setting("REDIS__PASSWORD", "text", "", "Its password.", secret=True),
)

_VAULT = (
    flag("VAULT__ENABLED", "false", "Whether settings are read from Vault or OpenBao."),
    Setting("VAULT__URL", "http_url", "", "Its address, e.g. https://vault.example.org:8200."),
    Setting("VAULT__TOKEN", "text", "", "The token that may read the path.", secret=True),
    Setting(
        "VAULT__PATH",
        "text",
        "secret/data/edgepaas",
        "The secret (KV version 2) whose keys are settings' names; secret/edgepaas is understood.",
    ),
    Setting(
        "VAULT__CACERT",
        "path",
        "",
        "Certificates (PEM) of the authorities that may sign its certificate.",
        derived="the system's",
    ),
    seconds("VAULT__TIMEOUT", "3", 0.1, 60, "How long it may take to answer."),
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
