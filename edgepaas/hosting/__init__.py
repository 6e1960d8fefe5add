# SPDX-License-Identifier: Apache-2.0
"""The platform's side of an application: finding it, loading it, handing the box to it."""
