"""What a shard tells of itself, made of what its parts count. docs/operations.md has the same list."""

from __future__ import annotations

import asyncio
from collections import Counter

from node import metrics, ops
from node.breaker import State
from node.clock import now_us
from node.config import Shard as Settings
from node.metrics import counter, gauge, histogram
from node.ops import Family
from shard.backlog import Backlog
from shard.backup import Backups
from shard.barrier import Barrier
from shard.dead_letters import DeadLetters
from shard.history import History
from shard.house import House
from shard.journal import Journal
from shard.lanes import LANES
from shard.mailboxes import Mailboxes
from shard.office import Office
from shard.postmen import Postmen
from shard.pressure import Pressure
from shard.push import Push
from shard.put_off import PutOff
from shard.quotas import Quotas
from shard.restore import Restores
from shard.retention import Retention
from shard.snapshots import Snapshots
from shard.statuses import Statuses
from shard.sync import Devices
from shard.watch import Watch

_BREAKER = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


class Metrics:
    """Reads the parts of one shard; nothing is changed by it, and nothing waited for."""

    def __init__(
        self,
        settings: Settings,
        *,
        office: Office,
        backlog: Backlog,
        postmen: Postmen,
        mailboxes: Mailboxes,
        journal: Journal,
        barrier: Barrier,
        house: House,
        pressure: Pressure,
        devices: Devices,
        snapshots: Snapshots,
        statuses: Statuses,
        watch: Watch,
        push: Push,
        backups: Backups,
        history: History,
        restores: Restores,
        put_off: PutOff,
        dead: DeadLetters,
        quotas: Quotas,
        retention: Retention,
    ) -> None:
        self._settings = settings
        self._office = office
        self._backlog = backlog
        self._postmen = postmen
        self._mailboxes = mailboxes
        self._journal = journal
        self._barrier = barrier
        self._house = house
        self._pressure = pressure
        self._devices = devices
        self._snapshots = snapshots
        self._statuses = statuses
        self._watch = watch
        self._push = push
        self._backups = backups
        self._history = history
        self._restores = restores
        self._put_off = put_off
        self._dead = dead
        self._quotas = quotas
        self._retention = retention
        self.questions: Counter[str] = Counter()
        """asked of this shard, by kind; deliveries are none"""

    async def ask(self, _q: ops.AskMetrics) -> ops.Metrics:
        return ops.Metrics(self.families(), self._watch.alerts.active)

    def families(self) -> list[Family]:
        """Everything, as it is now; less than half a millisecond."""
        return [
            *self._flow(),
            *self._delivery(),
            *self._journaling(),
            *self._boxes(),
            *self._syncing(),
            *self._pushing(),
            *self._backing_up(),
            *self._health(),
            *metrics.of_process(),
        ]

    def _flow(self) -> list[Family]:
        office, backlog = self._office, self._backlog
        lanes, now = backlog.lanes, asyncio.get_running_loop().time()
        users = dict(zip(LANES, lanes.lengths(), strict=True))
        letters = dict(zip(LANES, map(float, backlog.window.waiting), strict=True))
        waits = dict(zip(LANES, lanes.waits_s(now), strict=True))
        return [
            counter("pobox_letters_accepted_total", "Letters put into the journal", office.letters),
            counter("pobox_deliveries_accepted_total", "Letters times targets put into the journal", office.accepted),
            counter(
                "pobox_letters_refused_total",
                "Letters refused, by the code of the problem; shed are those that routers refused in its name",
                office.refused,
                "code",
            ),
            histogram("pobox_accept_seconds", "From a letter's coming in to its being in the journal", office.accept_s),
            gauge("pobox_waiting", "Letters times targets accepted and not yet stored", backlog.waiting),
            gauge("pobox_waiting_max", "At most so many may wait", self._settings.waiting_max),
            gauge("pobox_waiting_bytes", "Bytes of the letters that wait", backlog.bytes),
            gauge("pobox_waiting_bytes_max", "At most so many bytes may wait", self._settings.waiting_bytes_max),
            gauge(
                "pobox_window_fill_ratio",
                "How full the fullest of the lanes' windows in memory is",
                backlog.window.fill,
            ),
            gauge(
                "pobox_tail_letters",
                "Letters that wait in the journal only, behind the window of their lane",
                dict(zip(LANES, map(float, backlog.window.tail), strict=True)),
                "lane",
            ),
            gauge(
                "pobox_lane_letters",
                "Letters times targets that wait, in memory or behind the window; of a channel, who is in the lane",
                letters,
                "lane",
            ),
            gauge("pobox_lane_users", "Users for whom something waits in a lane", users, "lane"),
            gauge("pobox_lane_wait_seconds", "How long the first in a lane has waited", waits, "lane"),
            gauge("pobox_pressure_level", "Memory pressure, from 0 (none) to 4 (exhausted)", self._pressure.level),
            gauge("pobox_pressure_floor", "The lowest priority that is taken; 11 for none", self._pressure.floor),
            gauge("pobox_refusal_ratio", "Share of letters of late for which there was no room", self._pressure.rate),
        ]

    def _delivery(self) -> list[Family]:
        postmen = self._postmen
        put_off, given_up, dead = self._put_off, self._put_off.given_up.by_reason, self._dead
        stored = dict(zip(LANES, postmen.stored_s, strict=True))
        return [
            counter("pobox_deliveries_stored_total", "Letters times targets stored in a box", self._backlog.stored),
            counter(
                "pobox_deliveries_put_off_total", "Tries to store a letter that failed", put_off.failed_tries.total()
            ),
            counter("pobox_deliveries_given_up_total", "Letters times targets given up", given_up, "reason"),
            gauge(
                "pobox_deliveries_parked",
                "Letters times targets that wait on disk alone, put off",
                put_off.parked.count,
            ),
            gauge("pobox_retries_scheduled", "Users whose mailbox is to be tried again", len(put_off)),
            gauge("pobox_dead_letters", "Dead letters kept", dead.count),
            gauge("pobox_dead_letters_bytes", "Bytes of their bodies", dead.bytes),
            counter("pobox_dead_letters_dropped_total", "Dead letters that went, too many or too old", dead.dropped),
            counter("pobox_transactions_total", "Transactions in which letters were stored", postmen.transactions),
            histogram(
                "pobox_stored_seconds",
                "From the acceptance of the oldest letter of a transaction to its being stored, by that letter's lane",
                stored,
                "lane",
            ),
            gauge("pobox_postmen", "Postmen there are to be", postmen.number),
            counter(
                "pobox_postmen_rested_seconds_total",
                "Time in which the postman whose turn it was had nothing to do",
                postmen.rested_s,
            ),
        ]

    def _journaling(self) -> list[Family]:
        oldest_us = self._house.journal_oldest_us
        age_s = max(0.0, (now_us() - oldest_us) / 1e6) if oldest_us else 0.0
        return [
            histogram(
                "pobox_commit_seconds",
                "From the first statement of a commit of the journal to its end",
                self._office.commit_s,
            ),
            gauge("pobox_journal_rows", "Letters in the journal", self._journal.rows),
            gauge(
                "pobox_journal_rows_max",
                "At most so many letters may be in the journal",
                self._settings.journal_rows_max,
            ),
            gauge(
                "pobox_journal_bytes", "Bytes used in the journal, looked up twice a second", self._house.journal_bytes
            ),
            gauge(
                "pobox_journal_bytes_max",
                "At most so many bytes may be used in the journal",
                self._settings.journal_bytes_max,
            ),
            gauge("pobox_journal_oldest_seconds", "How long ago the oldest letter in the journal was accepted", age_s),
            gauge("pobox_receipts", "Receipts kept", self._journal.receipts),
            histogram(
                "pobox_barrier_seconds", "How long a flush took that lets journal rows go", self._barrier.flush_s
            ),
        ]

    def _boxes(self) -> list[Family]:
        boxes = self._mailboxes
        opened = {"kept": boxes.opened, "visited": boxes.visited}
        return [
            gauge(
                "pobox_volume_breaker",
                "The breaker of a disk with mailboxes: 0 closed, 1 half-open, 2 open",
                {volume: float(_BREAKER[state]) for volume, state in boxes.volumes.states().items()},
                "volume",
            ),
            gauge("pobox_mailboxes_open", "Mailboxes held open", len(boxes)),
            gauge("pobox_mailboxes_open_max", "At most so many are held open", boxes.open_max),
            counter(
                "pobox_mailboxes_opened_total", "Mailboxes opened, to stay open or for one transaction", opened, "for"
            ),
            counter("pobox_messages_expired_total", "Messages that were past their time", self._retention.expired),
            gauge("pobox_mailboxes_full", "Mailboxes that hold as much as their quota", len(self._quotas.full)),
            counter("pobox_mailboxes_damaged_total", "Mailboxes found damaged and set aside", boxes.damaged),
            counter(
                "pobox_mailbox_holds_total", "How often a mailbox was held for something that takes long", boxes.holds
            ),
            histogram("pobox_mailbox_wait_seconds", "How long those waited who found a mailbox held", boxes.line_s),
            histogram("pobox_checkpoint_seconds", "How long a checkpoint of a mailbox took", boxes.checkpoint_s),
        ]

    def _syncing(self) -> list[Family]:
        devices, snapshots, statuses = self._devices, self._snapshots, self._statuses
        checks = {"known": devices.known, "copied": devices.checks - devices.known}
        downloads = {"kept": devices.kept, "copied": devices.downloads - devices.kept}
        return [
            counter("pobox_sync_checks_total", "Versions asked for, by what it took to answer", checks, "by"),
            counter(
                "pobox_sync_snapshots_asked_total", "Snapshots asked for, by what it took to answer", downloads, "by"
            ),
            counter("pobox_snapshots_made_total", "Copies of mailboxes made", snapshots.made),
            counter("pobox_snapshots_made_bytes_total", "Bytes of the copies made", snapshots.made_bytes),
            counter("pobox_snapshots_packed_total", "Copies that were packed", snapshots.packed_files),
            counter("pobox_snapshots_refused_total", "Copies refused, too many being made", snapshots.refused),
            gauge("pobox_snapshots_kept", "Snapshot files kept", len(snapshots)),
            gauge("pobox_snapshots_kept_bytes", "Bytes of the snapshot files kept", snapshots.bytes),
            counter(
                "pobox_read_status_changes_total",
                "Changes of read status that devices sent, by what became of them; newer: the node has a later one",
                statuses.changes,
                "result",
            ),
            counter(
                "pobox_read_status_answers_total",
                "Answers about read status, by what they held: the changes since the last one, or everything",
                statuses.told,
                "holds",
            ),
            counter("pobox_read_status_damaged_total", "Files of read status set aside", statuses.damaged),
            counter(
                "pobox_questions_total",
                "Questions of routers, by kind; deliveries are none",
                self.questions,
                "question",
            ),
        ]

    def _pushing(self) -> list[Family]:
        push = self._push
        pushers = {"device": push.devices, "webhook": push.webhook}
        results: dict[tuple[str, ...], float] = {
            (to, result): float(number) for to, one in pushers.items() for result, number in one.results.items()
        }
        return [
            gauge("pobox_push_subscriptions", "Devices that are told of new messages", len(push.subscriptions)),
            gauge(
                "pobox_push_queue",
                "Notices that wait, are under way, or were sent a moment ago",
                {to: float(len(one.outbox)) for to, one in pushers.items()},
                "to",
            ),
            counter("pobox_push_total", "Notices by what became of them; again: a try failed", results, "to", "result"),
            counter(
                "pobox_push_dropped_total",
                "Messages of which somebody was not told, for want of room",
                {to: float(one.outbox.dropped) for to, one in pushers.items()},
                "to",
            ),
            histogram(
                "pobox_pushed_seconds",
                "From the storing of a notice's oldest message to its being taken by the push service",
                {to: one.sent_s for to, one in pushers.items()},
                "to",
            ),
        ]

    def _backing_up(self) -> list[Family]:
        state, restores = self._backups.state, self._restores
        boxes = {"copied": state.copied, "linked": state.linked, "failed": state.failed}
        damaged = {"backup": restores.restored, "none": restores.given_up}
        return [
            gauge(
                "pobox_backup_whole_seconds",
                "When the last whole backup was made, in seconds since 1970; 0 if never",
                self._backups.whole_us // 1_000_000,
            ),
            *self._off_site(),
            gauge("pobox_backup_running", "Whether a backup is being made", float(state.running)),
            gauge("pobox_backup_boxes", "Mailboxes of the backup that runs or was made last", boxes, "by"),
            gauge("pobox_backup_bytes", "Bytes of the copies of that backup", state.bytes),
            counter("pobox_mailboxes_restored_total", "Damaged mailboxes begun again, by what from", damaged, "from"),
            counter("pobox_history_bytes_total", "Bytes of delivered letters kept", self._history.bytes),
        ]

    def _off_site(self) -> list[Family]:
        if not self._backups.looks_off_site:
            return []
        return [
            gauge(
                "pobox_offsite_whole_seconds",
                "When what is off-site as a whole was made, in seconds since 1970; 0 if nothing is",
                self._backups.offsite_us // 1_000_000,
            )
        ]

    def _health(self) -> list[Family]:
        usage, watch = self._house.usage, self._watch
        return [
            gauge(
                "pobox_memory_used_bytes",
                "Memory used, of the machine or the control group, whichever is fuller",
                usage.used,
            ),
            gauge("pobox_memory_limit_bytes", "What there is of it", usage.limit),
            gauge(
                "pobox_disk_free_bytes",
                "Free on the disk with the data, or on that with the mailboxes if that has less",
                self._house.disk_free_bytes,
            ),
            gauge(
                "pobox_disk_reserve_bytes",
                "With less than this free nothing is accepted",
                self._settings.disk_reserve_bytes,
            ),
            gauge("pobox_alert_active", "Whether an alert of this shard is on", watch.alerts.by_name(), "alert"),
            gauge("pobox_alert_reading", "What the alert looks at, as read last", watch.readings, "alert"),
            histogram(
                "pobox_loop_late_seconds",
                "How much later than asked for the loop came back, twice a second",
                watch.loop_late_s,
            ),
        ]
