# SPDX-License-Identifier: Apache-2.0
"""Files that survive a power cut: paths, atomic writes, contracts between stages, locks."""
