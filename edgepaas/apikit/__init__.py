# SPDX-License-Identifier: Apache-2.0
"""The API kit: blueprints that document and validate themselves, fields, problems."""
