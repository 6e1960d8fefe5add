# SPDX-License-Identifier: Apache-2.0
"""Whether a row has the same content on both sides, to the bit: digests of rows, here and there."""
