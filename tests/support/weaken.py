# SPDX-License-Identifier: Apache-2.0
"""The real build with one promise broken on purpose: a test that does not see it is no test.

    with weakened("forget-mark"):           # in this process
    environ | weak_environ("late-sync")     # in an 'edgepaas up' and all its children

Each weakness is a few replacements in the product's modules, put in place when a module is
imported. Two of them weaken nothing: ``quick`` shortens pauses, and
``hand-back-steps`` stops a drainer where a test wants it.
"""

import contextlib
import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.support import hand_back_steps

VARIABLE = "EDGEPAAS_TEST_WEAKEN"
_SITE = Path(__file__).parent / "weak_site"
_ROOT = Path(__file__).resolve().parents[2]

#: What to set in an object in place of what is there.
Replacement = tuple[object, str, object]
#: Looks at a module that was just imported.
Patch = Callable[[ModuleType], Iterable[Replacement]]


def _constants(**values: object) -> Patch:
    def patch(module: ModuleType) -> Iterable[Replacement]:
        return [(module, name, value) for name, value in values.items()]

    return patch


def _synchronous(word: str) -> Patch:
    """SQLite tells the disk less often to keep what it was given."""

    def patch(module: Any) -> Iterable[Replacement]:
        original = module.open_sqlite

        def open_sqlite(*arguments: Any, **options: Any) -> Any:
            connection = original(*arguments, **options)
            connection.execute(f"PRAGMA synchronous={word}")
            return connection

        return [(module, "open_sqlite", open_sqlite)]

    return patch


def _fixed_waits(module: Any) -> Iterable[Replacement]:
    """PostgreSQL has the same seconds over every link."""

    def limit(_link: Any, least: float, _trips: float) -> float:
        return least

    return [(module.Link, "limit", limit)]


def _early_answer(module: Any) -> Iterable[Replacement]:
    """The service says that it is stored before it is: the group commits a moment later."""
    import threading
    import time

    writer = module.GroupCommitWriter

    def submit(self: Any, work: Callable[[Any], Any]) -> Any:
        # Run once, undone, for its result; what is to be stored waits for a better moment.
        result: list[Any] = []

        def trial(session: Any) -> None:
            result.append(work(session))
            session.flush()
            raise _Undone

        with contextlib.suppress(_Undone):
            original(self, trial)

        def later() -> None:
            time.sleep(0.3)
            original(self, work)

        threading.Thread(target=later, daemon=True).start()
        return result[0]

    def append(self: Any, job: Any) -> None:
        job.done(job.appended(len(job.distinct)))
        job.done = lambda _outcome: None

        def later() -> None:
            time.sleep(0.3)
            original_append(self, job)

        threading.Thread(target=later, daemon=True).start()

    original, original_append = writer.submit, writer.append
    return [(writer, "submit", submit), (writer, "append", append)]


class _Undone(Exception):
    """Takes a trial back."""


def _append_again(channel: Any) -> Iterable[Replacement]:
    """A worker that words the failure of an append runs it once more."""
    original = channel.Task.get_environment

    def get_environment(self: Any) -> Any:
        self.channel.append_outcome = None
        return original(self)

    return [(channel.Task, "get_environment", get_environment)]


def _unguarded_loop(auth: Any) -> Iterable[Replacement]:
    """The loop takes what anybody sends."""
    return [(auth.Guard, "find", lambda *_, **__: auth.LOCAL)]


def _any_owner(ownership: Any) -> Iterable[Replacement]:
    """Whose database it is is not asked."""
    return [(ownership.Ownership, "other", lambda *_: "")]


def _serves_empty(migrate: Any) -> Iterable[Replacement]:
    """A file on which a migration fails is set aside, and an empty one serves."""

    def without(path: Path, paths: Any, chain: Any, models: Any, failed: Any) -> Any:
        return migrate._replace(path, paths, chain, models, failed.reason)

    return [(migrate, "_without_migration", without)]


def _fresh_from_models(migrate: Any) -> Iterable[Replacement]:
    """A fresh file is made from the models, though there are migrations."""

    def fill(connection: Any, chain: Any, metadata: Any) -> None:
        metadata.create_all(connection)
        migrate._stamp(connection, chain)

    return [(migrate, "fill_fresh", fill)]


def _takes_back_over(merging: Any) -> Iterable[Replacement]:
    """A file that comes back out of quarantine overwrites what was written since."""

    def bring(connection: Any, table: Any) -> int:
        names = ", ".join(f'"{name}"' for name in table.columns)
        return int(
            connection.execute(
                f'INSERT OR REPLACE INTO main."{table.name}" ({names}) '
                f'SELECT {names} FROM aside."{table.name}"'
            ).rowcount
        )

    return [(merging, "_bring", bring)]


def _no_markers(module: Any) -> Iterable[Replacement]:
    """Source transactions are not told apart from single rows."""

    def mark(self: Any) -> None:
        if self._installed:
            self._last = self._now()

    return [(module.TransactionStamp, "mark", mark)]


def _overlooking(*unseen: str) -> Patch:
    """These results of comparing marks are taken for "in step"."""

    def patch(reconcile: Any) -> Iterable[Replacement]:
        original = reconcile.compare_marks

        def compare_marks(*arguments: Any) -> Any:
            found = original(*arguments)
            return reconcile.StreamComparison.IN_STEP if found.name in unseen else found

        return [(reconcile, "compare_marks", compare_marks)]

    return patch


def _trusting_itself(drain: Any) -> Replacement:
    """What is to be sent is read from the file's own mark, not from the hub's."""
    original = drain.next_batch

    def next_batch(connection: Any, after: int, *, rows: int) -> Any:
        return original(connection, drain.read_stream(connection).confirmed_seq, rows=rows)

    return (drain, "next_batch", next_batch)


def _confirm_first(drain: Any) -> Iterable[Replacement]:
    """Confirmed here before PostgreSQL has committed; nobody looks at its mark."""

    def set_inflight(connection: Any, batch: str, last_seq: int) -> None:
        drain.confirm_batch(connection, batch, last_seq, drain.DeliveryCounts())

    return [
        (drain, "set_inflight", set_inflight),
        _trusting_itself(drain),
    ]


def _forget_mark(drain: Any) -> Iterable[Replacement]:
    """PostgreSQL keeps no mark: what was not answered is sent again, as anybody would."""
    return [
        (drain, "advance_statements", lambda *_: []),
        _trusting_itself(drain),
    ]


def _no_inflight(drain: Any) -> Iterable[Replacement]:
    """The file does not remember what it was about to send."""
    return [(drain, "set_inflight", lambda *_: None)]


def _set_marks(hub: Any) -> Iterable[Replacement]:
    """The mark of a connection's stream is set, whatever it was."""
    original = hub.mark_statements

    def mark_statements(tables: Any) -> Any:
        from dataclasses import replace

        found = original(tables)
        return replace(found, advance=found.advance.replace("AND mark = $3", "AND 0 < $3"))

    rider = importlib.import_module("edgepaas.marks.rider")
    return [(hub, "mark_statements", mark_statements), (rider, "mark_statements", mark_statements)]


#: The steps of handing back, by what :mod:`edgepaas.sync.handback` does first in each.
STEPS = ("fenced", "drained", "proven", "noted", "cleared")
#: A folder: the step named in its file ``stop-at`` waits there until that file is gone.
STEPS_VARIABLE = "EDGEPAAS_TEST_STEPS"


def _stop(step: str) -> None:
    import time

    folder = Path(os.environ[STEPS_VARIABLE])
    wanted = folder / "stop-at"
    with contextlib.suppress(OSError):
        if wanted.read_text() != step:
            return
        (folder / "reached").write_text(step)
        while wanted.exists():
            time.sleep(0.01)


def _stops(handback: Any) -> Iterable[Replacement]:
    """Weakens nothing: the steps of handing back wait where a test says so."""

    def first(step: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def stopped(*arguments: Any, **options: Any) -> Any:
            _stop(step)
            return original(*arguments, **options)

        return stopped

    attempt = handback.HandBack.attempt

    def attempted(self: Any, connection: Any, drain: Any, test_write: Any, **options: Any) -> None:
        def drained(reads: Any) -> None:
            drain(reads)
            _stop("drained")  # with the fence up; a write is tried only where no row waited

        attempt(self, connection, drained, test_write, **options)

    return [
        (handback.HandBack, "attempt", attempted),
        (handback, "pending", first("fenced", handback.pending)),
        (handback.HandBack, "_extend_fence", first("proven", handback.HandBack._extend_fence)),
        (handback, "clear_hold", first("noted", handback.clear_hold)),
        (handback, "write_atomic", first("cleared", handback.write_atomic)),
    ]


def _no_fence(handback: Any) -> Iterable[Replacement]:
    """Writes pass while PostgreSQL takes over."""
    return [
        (handback.fence, "put", lambda *_: None),
        (handback.HandBack, "_extend_fence", lambda *_: None),
    ]


def _swallow_full(module: Any) -> Iterable[Replacement]:
    """A write that found the disk full counts as one that was stored."""
    from edgepaas.errors import DatabaseFull

    original = module.GroupCommitWriter.submit
    original_append = module.GroupCommitWriter.append

    def append(self: Any, job: Any) -> None:
        done = job.done

        def swallow(outcome: Any) -> None:
            full = isinstance(outcome, DatabaseFull)
            done(job.appended(len(job.distinct)) if full else outcome)

        job.done = swallow
        original_append(self, job)

    def submit(self: Any, work: Any) -> Any:
        try:
            return original(self, work)
        except DatabaseFull:
            return None

    writer = module.GroupCommitWriter
    return [(writer, "submit", submit), (writer, "append", append)]


def _caller_alone(module: Any) -> Iterable[Replacement]:
    """Only the thread that asks for it is held to the core."""
    return [(module, "_threads_beyond", _caller_beyond)]


def _caller_beyond(core: int) -> list[int]:
    return [] if os.sched_getaffinity(0) == {core} else [0]


def _commit_unchecked(module: Any) -> Iterable[Replacement]:
    """Whatever answers COMMIT is taken for one."""
    original = module.results_of

    def results(answers: Any) -> Any:
        found = original(answers)
        return [*found[:-1], module.Result("COMMIT", [])] if found else found

    return [(module, "results_of", results)]


def _never_gives_up(module: Any) -> Iterable[Replacement]:
    """However long PostgreSQL refuses every write, it is not given up."""
    original = module.Outcomes.failing

    def failing(self: Any) -> Any:
        return [dataclasses.replace(one, is_lasting=False) for one in original(self)]

    return [(module.Outcomes, "failing", failing)]


def _sent_once(store: Any) -> Iterable[Replacement]:
    """A flight whose answer was lost counts as one that was stored."""
    original = store.FactStore._fly

    def fly(self: Any, flight: Any, journaled: Any) -> Any:
        try:
            return original(self, flight, journaled)
        except Exception as error:
            if not store.is_lost(error):
                raise
            return []

    return [(store.FactStore, "_fly", fly)]


def _journal_behind(module: Any) -> Iterable[Replacement]:
    """The journal is written when COMMIT was answered, not before it is sent."""
    rider = module.JournalingRider
    committed = rider.committed

    def sent(self: Any) -> None:
        self.late = (self.marks.position, self._expected)
        self.marks.sent()

    def behind(self: Any, results: Any) -> None:
        committed(self, results)
        (stream_id, mark), expected = self.late
        for one in expected:
            self._journal().record(stream_id, mark, one.changes)

    return [(rider, "sent", sent), (rider, "committed", behind)]


def _in_flight_goes(settling: Any) -> Iterable[Replacement]:
    """What a killed process left in flight goes where the hub lacks it."""
    return [(settling, "DOUBTFUL", None)]


def _durability_not_asked(hub: Any) -> Iterable[Replacement]:
    """A transaction is as durable as the server's default makes it."""
    as_it_is = "current_setting('synchronous_commit')"
    return [(hub, "_DURABLE", as_it_is), (hub, "DURABLE_ONLY", f"SELECT {as_it_is}")]


def _asked_too_late(keeper: Any) -> Iterable[Replacement]:
    """Who still writes is asked when the hub's marks were read already."""
    original = keeper.MarkKeeper._settle_journal

    def settle(self: Any, hub: Any, _abandoned: Any) -> None:
        original(self, hub, self._abandoned_entries())

    return [(keeper.MarkKeeper, "_settle_journal", settle)]


def _no_mark_after_a_failover(hub: Any) -> Iterable[Replacement]:
    """A transaction whose mark does not move begins no other stream."""
    original = hub.mark_statements

    def mark_statements(tables: Any) -> Any:
        found = original(tables)
        return dataclasses.replace(
            found,
            advance=found.advance.replace("WHERE NOT EXISTS (SELECT FROM moved)", "WHERE false"),
        )

    rider = importlib.import_module("edgepaas.marks.rider")
    return [(hub, "mark_statements", mark_statements), (rider, "mark_statements", mark_statements)]


def _journal_unsynced(module: Any) -> Iterable[Replacement]:
    """The client hears of a write that a power cut takes from the journal."""
    return [(module.Journal, "sync", lambda self, entry: None)]


def _followed_in_part(statements: Any) -> Iterable[Replacement]:
    """Where a part of a job is new, that part is stored, and nothing that follows from it."""
    original = statements._statement

    def statement(*kind: Any) -> Any:
        text = original(*kind)
        return text.replace(
            f"given WHERE given.{statements._JOB} NOT IN (SELECT job FROM there) RETURNING",
            "given WHERE true ON CONFLICT DO NOTHING RETURNING",
            1,
        )

    return [(statements, "_statement", statement)]


def _predecessors_stay(sessions: Any) -> Iterable[Replacement]:
    """What a process of this box left at the server stays there, whether it died or lost it."""
    return [(sessions.OwnSessions, "_end", lambda *_: 0)]


def _gate_backs_off(run: Any) -> Iterable[Replacement]:
    """A start that fails on PostgreSQL is a crash like any other, and tried there again."""
    return [(run.Service, "_give_up_postgres", lambda *_: False)]


def _wall_clock(backoff: Any) -> Iterable[Replacement]:
    """Pauses are measured with a clock that jumps."""
    begin = backoff.Backoff.__init__
    return [(begin, "__kwdefaults__", {**begin.__kwdefaults__, "clock": backoff.time.time})]


def _changes(change: Callable[[list[Any]], list[Any]]) -> Patch:
    """Something happens to the changes between the file and the hub."""

    def patch(reading: Any) -> Iterable[Replacement]:
        original = reading.Batch.chunks

        def chunks(self: Any, *arguments: Any) -> Iterator[list[Any]]:
            for chunk in original(self, *arguments):
                if changed := change(chunk):
                    yield changed

        return [(reading.Batch, "chunks", chunks)]

    return patch


def _trusting_mirror(mirror: Any) -> Iterable[Replacement]:
    """What the hub does not have counts as deleted there, whatever the hub has forgotten."""
    return [
        (mirror, "require_whole_history", lambda _: None),
        (mirror, "_prove", lambda *_: mirror.Proof()),
    ]


def _uncounted_copies(scheduled: Any) -> Iterable[Replacement]:
    """What comes home of the file's copies goes on counting as lost."""
    return [(scheduled.resent, "remember_copies", lambda *_: None)]


def _any_table(proof: Any) -> Iterable[Replacement]:
    """A table of the hub is the one that was mirrored as long as it has the name."""
    return [(proof, "made_anew", lambda *_: frozenset())]


def _resent_behind(insertion: Any) -> Iterable[Replacement]:
    """What a hub lost is sent after all that waits."""
    original = insertion._placed

    def placed(connection: Any, transactions: Any, _least: int, last: int) -> Any:
        return original(connection, transactions, last, last)

    return [(insertion, "_placed", placed)]


def _lost_stays_lost(recovery: Any) -> Iterable[Replacement]:
    """A hub that went back in time is sent nothing but what the outbox still has."""
    return [(recovery.Recovery, "_queue", lambda *_: None)]


def _any_type_fits(fit: Any) -> Iterable[Replacement]:
    """Whatever type a column has, it keeps what is written to it."""
    return [(fit, "column_misfit", lambda *_: "")]


def _believes_tags(planner: Any) -> Iterable[Replacement]:
    """What a statement says that it stored is stored as it was sent."""
    return [(planner, "verify", lambda *_: None)]


def _unseen_rows(outcomes: Any) -> Iterable[Replacement]:
    """How many rows an INSERT stored is not looked at."""
    return [(outcomes.StatementTracker, "_on_executed", lambda *_: None)]


def _catalog_as_read(drain: Any) -> Iterable[Replacement]:
    """The hub's tables stay as they were when this connection looked at them."""
    return [(drain, "unaltered_statements", lambda *_: [])]


def _keys_alone(digest: Any) -> Iterable[Replacement]:
    """The audit takes a row for the same where its key is."""
    made = digest.row_digest

    def row_digest(mapping: Any, **options: Any) -> Any:
        keys = dataclasses.replace(mapping, columns=mapping.key)
        return made(keys, **options)

    content = importlib.import_module("edgepaas.sync.content.content")
    return [(content, "row_digest", row_digest)]


def _any_difference(agreement: Any) -> Iterable[Replacement]:
    """The mirror takes every difference for a change of the hub."""
    return [(agreement.TableAgreement, "_is_explained", lambda *_: True)]


def _unjudged(shared_rows: Any) -> Iterable[Replacement]:
    """Whatever differs in a shared row is left to the mirror."""
    original = shared_rows.verdict

    def verdict(*arguments: Any, **options: Any) -> Any:
        found = original(*arguments, **options)
        return "changed_there" if found in shared_rows.WRONG else found

    return [(shared_rows, "verdict", verdict)]


def _no_repair(scheduled: Any) -> Iterable[Replacement]:
    """What the audit found missing is not sent again."""
    return [(scheduled, "queue_again", lambda *_: 0)]


def _takes_any_state(module: Any) -> Iterable[Replacement]:
    """A state folder that is empty is taken for one that always was."""
    return [(module, "_lost", lambda *_, **__: None)]


def _names_alone(naming: Any) -> Iterable[Replacement]:
    """A row's columns are looked for under the names that they had when it was captured."""
    return [(naming, "way_to_hub", lambda *_: ())]


def _names_as_read(drain: Any) -> Iterable[Replacement]:
    """What a connection has read of the hub's names is taken to hold for ever."""
    names = ("unchanged_statements", "unaltered_statements")
    return [(drain, name, lambda *_: []) for name in names]


def _contracts_at_once(upgrade: Any) -> Iterable[Replacement]:
    """A revision is applied whatever waits."""
    original = upgrade.upgrade

    def unguarded(connection: Any, chain: Any, metadata: Any, guard: Any = None) -> Any:
        return original(connection, chain, metadata, None)

    return [(upgrade, "upgrade", unguarded)]


def _dropped_in_silence(statements: Any) -> Iterable[Replacement]:
    """A value whose column the hub has no more is left out."""
    return [(statements, "keep_dropped", lambda *_: None)]


#: No difference between the two marks is noticed.
_OVERLOOK_ALL = {
    "edgepaas.sync.delivery.reconcile": _overlooking("COMMITTED", "HUB_BEHIND", "FORKED")
}


def _counters_overwrite(statements: Any) -> Iterable[Replacement]:
    """The value of a counter travels, not its difference."""

    def updated_value(mapped: Any, **_: Any) -> str:
        return f"h.n{mapped.position}"

    return [(statements, "updated_value", updated_value)]


def _deaf_at_first(module: Any) -> Iterable[Replacement]:
    """The supervisor's handlers take signals before there is anything to keep them in."""

    class At:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, "SIG_UNBLOCK" if name == "SIG_BLOCK" else name)

    original, real = module.Events.__enter__, module.signal

    def enter(self: Any) -> Any:
        module.signal = At()
        try:
            return original(self)
        finally:
            module.signal = real

    return [(module.Events, "__enter__", enter)]


def _start_not_extended(module: Any) -> Iterable[Replacement]:
    """A stage under 'edgepaas up' may ask for more time, and gets none."""
    return [(module.Child, "extend", lambda self, seconds: None)]


def _rounded_decimals(module: Any) -> Iterable[Replacement]:
    """SQLite stores decimal numbers as it likes: as 64-bit floats."""

    def get_col_spec(self: Any, **_: Any) -> str:
        return f"NUMERIC({self.precision}, {self.scale})"

    return [(module.NumericText, "get_col_spec", get_col_spec)]


def _lenient(strictness: Any) -> Iterable[Replacement]:
    """SQLite takes what its tables take."""
    return [(strictness, "rules_of", lambda *_, **__: iter(()))]


def _unchecked_capture(rider: Any) -> Iterable[Replacement]:
    """COMMIT is sent whether or not the hub's triggers are in place."""
    original = rider.HubCapture.use

    def use(self: Any, tables: Sequence[int] | None) -> None:
        original(self, None if tables is None else ())

    return [(rider.HubCapture, "use", use)]


def _forgotten_capture(keeping: Any) -> Iterable[Replacement]:
    """What was captured is acknowledged, and kept nowhere."""
    return [(keeping.JournaledChanges, "keep", lambda _self, _written: None)]


def _unreadable_is_missing(access: Any) -> Iterable[Replacement]:
    """A journal that cannot be read now is taken for one that is not there."""
    original = access.youngest_order

    def youngest_order(path: Any) -> int:
        try:
            return int(original(path))
        except access.JournalUnreadable:
            return 0

    return [(access, "youngest_order", youngest_order)]


def _waits_for_journal(trouble: Any) -> Iterable[Replacement]:
    """Nothing is delivered for as long as the journal cannot be read."""
    return [(trouble.JournalTrouble, "record_failure", lambda *_: False)]


def _journal_moves(journal: Any) -> Iterable[Replacement]:
    """What is read twice of the journal is read at two moments."""
    return [(journal, "snapshot", lambda _: contextlib.nullcontext())]


def _unsent_is_prepared(prepared: Any) -> Iterable[Replacement]:
    """What a flight would have prepared that was not sent counts as prepared."""
    return [(prepared.PreparedStatements, "unsent", lambda _: None)]


def _unguarded_file(guard: Any) -> Iterable[Replacement]:
    """The SQLite file is written whether or not its triggers are in place."""
    return [(guard.CaptureGuard, name, lambda _self: None) for name in ("begin", "finish")]


def _own_log_file(rotating: Any) -> Iterable[Replacement]:
    """Each process judges and renames the log file by the one that it opened itself."""

    def is_full(self: Any) -> bool:
        own = os.fstat(self.stream.fileno())
        return bool(own.st_size >= self._full_at)

    return [(rotating.RotatingLogFile, "_is_full", is_full)]


WEAKNESSES: dict[str, dict[str, Patch]] = {
    "own-log-file": {"edgepaas.logs.rotating_file": _own_log_file},
    "unchecked-capture": {"edgepaas.outbox.hub_capture.rider": _unchecked_capture},
    "forgotten-capture": {"edgepaas.outbox.hub_capture.keeping": _forgotten_capture},
    "unreadable-is-missing": {"edgepaas.outbox.journal.access": _unreadable_is_missing},
    "waits-for-journal": {"edgepaas.sync.resend.journal_trouble": _waits_for_journal},
    "journal-moves": {"edgepaas.outbox.journal.journal": _journal_moves},
    "unsent-is-prepared": {"edgepaas.pgdriver.flights.prepared": _unsent_is_prepared},
    "unguarded-file": {"edgepaas.database.sqlite.capture_guard": _unguarded_file},
    "quick": {
        "edgepaas.supervisor.supervisor": _constants(LONGEST_PAUSE=0.2),
        "edgepaas.supervisor.sidecars": _constants(PAUSE=0.05, LONGEST_PAUSE=0.2),
        "edgepaas.service.watches.table_fit": _constants(LOOK_EVERY=0.5),
    },
    "hand-back-steps": {"edgepaas.sync.handback": hand_back_steps.patch},
    "steps": {"edgepaas.sync.handback": _stops},
    "no-fence": {
        "edgepaas.sync.handback": _no_fence,
        "edgepaas.decision.waiting": lambda w: [(w, "rows_waiting", lambda *_: w.Waiting())],
    },
    "any-type-fits": {"edgepaas.outcomes.fit": _any_type_fits},
    "empties-unasked": {
        "edgepaas.schema.renames.observer": lambda o: [
            (o.ObservedRevision, "no_longer_empty", lambda *_: [])
        ],
    },
    "revision-waits-for-ever": {
        "edgepaas.sync.turns.schema": lambda t: [(t.SchemaTurn, "left", lambda *_: float("inf"))],
    },
    "believes-tags": {"edgepaas.sync.delivery.planner": _believes_tags},
    "unseen-rows": {"edgepaas.database.postgresql.write_outcomes": _unseen_rows},
    "catalog-as-read": {"edgepaas.sync.delivery.drain": _catalog_as_read},
    "counters-overwrite": {"edgepaas.sync.delivery.statements": _counters_overwrite},
    "rounded-decimals": {"edgepaas.database.sqlite.numeric_type": _rounded_decimals},
    "lenient-sqlite": {"edgepaas.outbox.strictness": _lenient},
    # Weakens nothing: the audit follows a return, or another audit, at once.
    "audit-soon": {
        "edgepaas.sync.turns.auditing": _constants(
            AFTER_RETURN=0.2, BETWEEN_RETURNS=0.5, _LOOK_EVERY=0.2
        )
    },
    # Weakens nothing: the journal makes room at once.
    "prune-soon": {"edgepaas.service.watches.journal": _constants(PRUNE_EVERY=0.5)},
    "audit-keys-alone": {"edgepaas.sync.content.digest": _keys_alone},
    "audit-shared-unjudged": {"edgepaas.sync.audit.shared_rows": _unjudged},
    "mirror-any-difference": {"edgepaas.sync.mirror.agreement": _any_difference},
    "audit-no-repair": {"edgepaas.sync.audit.scheduled": _no_repair},
    "any-state": {"edgepaas.sync.losses.lost_state": _takes_any_state},
    "set-marks": {"edgepaas.marks.hub": _set_marks},
    "durability-not-asked": {"edgepaas.marks.hub": _durability_not_asked},
    "asked-too-late": {"edgepaas.marks.keeper": _asked_too_late},
    "in-flight-goes": {"edgepaas.outbox.journal.settling": _in_flight_goes},
    "no-mark-after-a-failover": {"edgepaas.marks.hub": _no_mark_after_a_failover},
    "journal-behind": {"edgepaas.marks.journaling": _journal_behind},
    "journal-unsynced": {"edgepaas.outbox.journal.journal": _journal_unsynced},
    "swallow-full": {"edgepaas.database.sqlite.group_commit": _swallow_full},
    "never-gives-up": {"edgepaas.outcomes.outcomes": _never_gives_up},
    "predecessors-stay": {"edgepaas.pgdriver.sessions": _predecessors_stay},
    "gate-backs-off": {"edgepaas.service.run": _gate_backs_off},
    "wall-clock": {"edgepaas.timing.backoff": _wall_clock},
    "fixed-waits": {"edgepaas.timing.link": _fixed_waits},
    "lost-is-stored": {"edgepaas.database.postgresql.append_store": _sent_once},
    "append-in-part": {"edgepaas.database.postgresql.append_statements": _followed_in_part},
    "commit-unchecked": {"edgepaas.pgdriver.flights.transactions": _commit_unchecked},
    "synchronous-normal": {"edgepaas.database.sqlite.connection": _synchronous("NORMAL")},
    "synchronous-off": {"edgepaas.database.sqlite.connection": _synchronous("OFF")},
    "forks-keep-files": {
        "edgepaas.supervisor.forked_stages": _constants(_close_from=lambda first: None)
    },
    "deaf-at-first": {"edgepaas.supervisor.child": _deaf_at_first},
    "start-not-extended": {"edgepaas.supervisor.child": _start_not_extended},
    "pin-caller-alone": {"edgepaas.service.core_pinning": _caller_alone},
    "early-answer": {"edgepaas.database.sqlite.group_commit": _early_answer},
    "append-again": {"edgepaas.httpd.channel": _append_again},
    "unguarded-loop": {"edgepaas.web.access.auth": _unguarded_loop},
    "any-owner": {"edgepaas.schema.ownership": _any_owner},
    "serves-empty": {"edgepaas.schema.sqlite.migrate": _serves_empty},
    "fresh-from-models": {"edgepaas.schema.sqlite.migrate": _fresh_from_models},
    "takes-back-over": {"edgepaas.schema.sqlite.merging": _takes_back_over},
    "no-markers": {"edgepaas.database.sqlite.transaction_stamp": _no_markers},
    "confirm-first": {"edgepaas.sync.delivery.drain": _confirm_first, **_OVERLOOK_ALL},
    "forget-mark": {"edgepaas.sync.delivery.drain": _forget_mark, **_OVERLOOK_ALL},
    "no-inflight": {"edgepaas.sync.delivery.drain": _no_inflight},
    "no-rewind": {
        "edgepaas.sync.delivery.reconcile": _overlooking("HUB_BEHIND"),
        "edgepaas.sync.delivery.drain": lambda drain: [_trusting_itself(drain)],
    },
    "trusting-mirror": {"edgepaas.sync.mirror.mirror": _trusting_mirror},
    "uncounted-copies": {"edgepaas.sync.audit.scheduled": _uncounted_copies},
    "any-table": {"edgepaas.sync.mirror.proof": _any_table},
    "resent-behind": {"edgepaas.outbox.resending.insertion": _resent_behind},
    "lost-stays-lost": {"edgepaas.sync.resend.recovery": _lost_stays_lost},
    "names-alone": {"edgepaas.outbox.revisions.naming": _names_alone},
    "names-as-read": {"edgepaas.sync.delivery.drain": _names_as_read},
    "contracts-at-once": {"edgepaas.schema.renames.upgrade": _contracts_at_once},
    "dropped-in-silence": {"edgepaas.sync.delivery.statements": _dropped_in_silence},
    "no-fork": {"edgepaas.sync.delivery.reconcile": _overlooking("FORKED")},
    "forgetful": {
        "edgepaas.outbox.reading": _changes(lambda chunk: chunk[: max(1, len(chunk) - 1)])
    },
    "backwards": {"edgepaas.outbox.reading": _changes(lambda chunk: chunk[::-1])},
}


def replacements(name: str, module: str) -> Iterable[Replacement]:
    """Return what the weakness *name* puts in place in *module*, which is imported."""
    return WEAKNESSES[name][module](sys.modules[module])


@contextlib.contextmanager
def weakened(*names: str) -> Iterator[None]:
    """Weaken this process for the block."""
    undo: list[Replacement] = []
    try:
        for name in filter(None, names):
            for module in WEAKNESSES[name]:
                importlib.import_module(module)
                for target, attribute, new in replacements(name, module):
                    undo.append((target, attribute, getattr(target, attribute)))
                    setattr(target, attribute, new)
        yield
    finally:
        for target, attribute, old in reversed(undo):
            setattr(target, attribute, old)


def weak_environ(*names: str) -> dict[str, str]:
    """What a process needs in its environment to be weakened, and its children with it."""
    unknown = set(filter(None, names)) - set(WEAKNESSES)
    if unknown:
        raise ValueError(f"no such weakness: {', '.join(sorted(unknown))}")
    return {
        "PYTHONPATH": f"{_SITE}{os.pathsep}{_ROOT}",
        VARIABLE: ",".join(filter(None, names)),
    }


def install(names: Sequence[str]) -> None:
    """Weaken each module when it is imported; for :mod:`sitecustomize`."""
    wanted: dict[str, list[str]] = {}
    for name in filter(None, names):
        for module in WEAKNESSES[name]:
            wanted.setdefault(module, []).append(name)
    if wanted:
        sys.meta_path.insert(0, _Finder(wanted))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, wanted: dict[str, list[str]]) -> None:
        self._wanted = wanted

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        names = self._wanted.get(fullname)
        if names is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, names)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any, names: list[str]) -> None:
        self._loader, self._names = loader, names

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        found: ModuleType | None = self._loader.create_module(spec)
        return found

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        for name in self._names:
            for target, attribute, new in replacements(name, module.__name__):
                setattr(target, attribute, new)
