"""The API kit: blueprints that document and validate themselves, fields, problems."""
