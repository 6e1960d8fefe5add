"""Who runs on a box's folders is known to others, and a second chain is refused."""

import fcntl
import os

import pytest

from edgepaas.files.paths import Paths
from edgepaas.service.running import RunsAlready, claim_serving, claim_up, serving_process


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
