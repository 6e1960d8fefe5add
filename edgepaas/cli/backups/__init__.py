# SPDX-License-Identifier: Apache-2.0
"""Sub-commands that write a box into a file, and put it into place again."""
