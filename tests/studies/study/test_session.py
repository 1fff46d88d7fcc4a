"""When a worker stops: told, taken over, left alone. And one study a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from nybble.errors import UserError
from nybble.studies.study import session as module
from nybble.studies.study.session import FILE, PATIENCE, Lease, Session


def test_a_worker_goes_on_until_it_is_told(tmp_path: Path) -> None:
    with Session(tmp_path) as session:
        lease = Lease(tmp_path / FILE, session.token)
        assert not lease.over(0.0)
        session.stop()
        assert not lease.over(0.1)  # not looked again so soon
        assert lease.over(1.0)
    assert lease.over(2.0)


def test_the_end_of_a_session_is_a_stop(tmp_path: Path) -> None:
    with Session(tmp_path) as session:
        pass
    assert Lease(tmp_path / FILE, session.token).over()


def test_a_session_that_took_over_ends_the_workers_of_the_one_before(tmp_path: Path) -> None:
    with Session(tmp_path) as first:
        lease = Lease(tmp_path / FILE, first.token)
    with Session(tmp_path) as second:
        assert Lease(tmp_path / FILE, first.token).over() and lease.over()
        assert not Lease(tmp_path / FILE, second.token).over()


def test_a_worker_of_a_parent_that_died_stops_after_a_while(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text("me 1 go")
    lease = Lease(path, "me")
    begun = lease._renewed

    def looks(first: float, last: float) -> list[bool]:
        return [lease.over(begun + first + second) for second in range(int(last - first) + 1)]

    assert not any(looks(0, PATIENCE - 1))
    path.write_text("me 2 go")
    assert not any(looks(PATIENCE + 1, PATIENCE + 1))  # renewed
    path.unlink()
    assert not any(looks(PATIENCE + 2, 2 * PATIENCE + 1))
    assert all(looks(2 * PATIENCE + 2, 2 * PATIENCE + 4))
    path.write_text("me 3 go")
    assert lease.over(begun + 2 * PATIENCE + 6)  # it stays so


def test_a_worker_that_slept_waits_for_its_parent_to_wake(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text("me 1 go")
    lease = Lease(path, "me")
    begun = lease._renewed
    assert not lease.over(begun)
    woken = begun + 100 * PATIENCE
    assert not lease.over(woken)  # nobody has had the time to renew anything
    assert not lease.over(woken + PATIENCE / 4)
    path.write_text("me 2 go")
    assert not any(lease.over(woken + second) for second in range(9, int(PATIENCE) + 1, 3))
    assert [lease.over(woken + PATIENCE + second) for second in (5, 8, 11)][-1]  # it died after all


def test_a_parent_renews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.01)
    with Session(tmp_path):
        seen = {(tmp_path / FILE).read_text() for _ in range(2000)}
    assert len(seen) > 1


def test_one_study_a_folder(tmp_path: Path) -> None:
    with Session(tmp_path), pytest.raises(UserError, match="Another process runs a study"):
        Session(tmp_path)
    with Session(tmp_path):
        pass
