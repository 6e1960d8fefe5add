# SPDX-License-Identifier: Apache-2.0
"""Who runs on a box's folders is known to others, and a second chain is refused."""

import dataclasses
import errno
import fcntl
import os
from collections.abc import Callable

import pytest

from edgepaas.errors import ConfigurationError
from edgepaas.files.paths import Paths
from edgepaas.service import instance_locks as running
from edgepaas.service.instance_locks import (
    RunsAlready,
    claim_serving,
    claim_state,
    claim_up,
    serving_process,
)


def test_a_second_up_is_refused_with_the_first_one_s_process_and_home(paths: Paths) -> None:
    """Exit status 1, one line."""
    lock = claim_up(paths)
    assert paths.up_lock.read_text() == f"{os.getpid()}\n"
    with pytest.raises(RunsAlready) as refused:
        claim_up(paths)
    said = str(refused.value)
    assert f"EDGEPAAS_HOME={paths.home}: another 'edgepaas up' (process {os.getpid()})" in said
    assert refused.value.exit_code == 1
    os.close(lock)
    os.close(claim_up(paths))


def test_a_shorter_process_id_leaves_nothing_of_a_longer_one(paths: Paths) -> None:
    """The file outlives its holders."""
    paths.up_lock.write_text("123456789\n")
    os.close(claim_up(paths))
    assert paths.up_lock.read_text() == f"{os.getpid()}\n"


def test_the_service_is_known_for_as_long_as_it_runs(paths: Paths) -> None:
    """A second one serves without the lock."""
    assert serving_process(paths) is None
    lock = claim_serving(paths)
    assert lock is not None
    assert serving_process(paths) == os.getpid()
    assert claim_serving(paths) is None
    os.close(lock)
    assert serving_process(paths) is None


def test_a_service_under_the_unit_is_known_whose_lock_flock_holds_shared(paths: Paths) -> None:
    """Else the port would be taken by a stranger, to 'edgepaas doctor' on an installed box."""
    lock = os.open(paths.serving_lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    assert serving_process(paths) == 0
    os.close(lock)
    assert serving_process(paths) is None


def test_two_containers_on_one_volume_are_one_too_many(paths: Paths) -> None:
    """Their run/ folders are not the same, so neither sees the other's lock there."""
    other = dataclasses.replace(paths, runtime=paths.runtime.with_name("run-of-another"))
    other.create()
    first = (claim_up(paths), claim_state(paths))
    second = claim_up(other)
    with pytest.raises(RunsAlready) as refused:
        claim_state(other)
    assert str(refused.value).startswith(f"{paths.state}: another 'edgepaas up' works there")
    for lock in first:
        assert lock is not None
        os.close(lock)
    another = claim_state(other)
    assert another is not None
    os.close(another)
    os.close(second)


@pytest.mark.parametrize("claim", [claim_up, claim_state])
def test_a_folder_that_this_user_may_not_write_is_named_with_the_way_out(
    claim: Callable[[Paths], int | None], paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed box's folders, in a container that was given no place to write."""

    def refused(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(running, "acquire", refused)  # as root every mode can be written
    folder = paths.runtime if claim is claim_up else paths.state
    with pytest.raises(ConfigurationError) as refusal:
        claim(dataclasses.replace(paths, home=""))
    said = str(refusal.value)
    assert said.startswith(f"the folder {folder} cannot be written (Permission denied): ")
    assert "'--tmpfs /run'" in said
    assert f"a volume on {paths.state}" in said
    assert f"user {os.geteuid()} " in said


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.ENOLCK, errno.EIO])
def test_a_state_folder_that_takes_no_lock_keeps_nobody_from_starting(
    number: int, paths: Paths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full or dying disk: the stages say what is the matter, and what can be done."""

    def failing(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(running, "acquire", failing)
    assert claim_state(paths) is None
    assert os.strerror(number) in caplog.text
