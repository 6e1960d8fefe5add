# SPDX-License-Identifier: Apache-2.0
"""Import of readings from a CSV file into a running box."""
