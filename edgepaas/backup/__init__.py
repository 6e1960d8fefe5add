# SPDX-License-Identifier: Apache-2.0
"""One file that holds a box: written while it runs, verified, and put into place again."""
