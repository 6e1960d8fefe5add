# SPDX-License-Identifier: Apache-2.0
"""What each revision of the schema did to the names of tables and columns."""
