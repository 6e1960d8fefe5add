# SPDX-License-Identifier: Apache-2.0
"""Who may run a command on an installed box: the service's user, or root, who becomes it."""

import grp
import os
import pwd

from edgepaas.errors import EdgePaaSError
from edgepaas.files.paths import SYSTEM_CONFIGURATION, Paths, find_paths

SERVICE_USER = "edgepaas"


class NotAllowed(EdgePaaSError):
    """The command reads or writes what belongs to the service's user."""


def become_service_user(command: str) -> None:
    """Give up root for the service's user; refuse any other user on an installed box.

    A file that root creates in the state folder locks the service out of it, so root
    first becomes ``edgepaas``. In a developer's tree ($EDGEPAAS_HOME, XDG) every user
    works on files of their own and nothing changes. A cluster may give a container any
    user (OpenShift's restricted-v2): where the state folder is for it to write, it is
    the service's user. Raises NotAllowed.
    """
    paths = find_paths()
    account = _other_account(paths)
    if account is None:
        return
    if os.geteuid() != 0:
        if _is_ours(paths):
            return
        raise NotAllowed(
            f"'edgepaas {command}' works on files of the user {SERVICE_USER}: run it as "
            f"'sudo edgepaas {command}', in a container as the user of {paths.state} "
            f"('--user {account.pw_uid}'); 'edgepaas status' needs no privilege"
        )
    groups = [g.gr_gid for g in grp.getgrall() if SERVICE_USER in g.gr_mem]
    try:
        os.setgroups([account.pw_gid, *groups])
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    except PermissionError:
        raise NotAllowed(
            f"'edgepaas {command}' works on files of the user {SERVICE_USER}, and this root may "
            f"not become another user (no CAP_SETUID): run it with '--user {account.pw_uid}'"
        ) from None
    os.environ["HOME"] = account.pw_dir


def becomes_another_user() -> bool:
    """Whether :func:`become_service_user` would give up root here."""
    return os.geteuid() == 0 and _other_account(find_paths()) is not None


def _other_account(paths: Paths) -> pwd.struct_passwd | None:
    """Return the service's account on an installed box, None where this process has it already."""
    if not paths.runtime.is_relative_to("/run") or not SYSTEM_CONFIGURATION.is_dir():
        return None
    try:
        account = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None  # no package installed, or an image that runs under a user of its own
    return None if os.geteuid() == account.pw_uid else account


def _is_ours(paths: Paths) -> bool:
    """Whether this user may write the state folder, and no other user has worked in it."""
    if not os.access(paths.state, os.W_OK | os.X_OK):
        return False
    try:
        return paths.node.stat().st_uid == os.geteuid()
    except OSError:
        return True  # no service has run from it yet
