# SPDX-License-Identifier: Apache-2.0
"""One suite for every home of the box: 'make run', the installed package, the image."""
