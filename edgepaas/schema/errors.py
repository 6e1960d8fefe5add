"""What the schema stage can fail with."""

from edgepaas.errors import EdgePaaSError


class SchemaError(EdgePaaSError):
    """The schema cannot be brought to head; the message says what was left as it was."""
