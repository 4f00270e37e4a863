"""What may cross the socket between a router and a shard, as structs.

A request is ``[op, rid, …]``, an answer ``[kind, rid, …]``; both are array-like msgpack structs
whose first element is the tag. ``rid`` pairs them; many are in flight and may be answered in any
order. Requests about a user carry the slot and the table's version: a shard refuses a slot that
is not its own. The letter itself is encoded once, by the router, and travels as raw bytes into
the journal.
"""

from __future__ import annotations

import msgspec

from node.errors import PoboxError, Problem, Shut


class Letter(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A message as it lies in the journal. The first ten fields are a row of ``messages``."""

    id: str
    channel_id: str
    title: str
    content: str
    message_type: str
    priority: int
    sender: str | None
    created_at: str
    updated_at: str
    metadata: str | None
    """JSON text"""
    accepted_us: int
    timeout_s: float | None = None


class Request(msgspec.Struct, array_like=True, gc=False):
    rid: int


class AboutUser(Request):
    """A question about one user, for the shard that owns ``slot`` under version ``table``."""

    table: int
    slot: int
    user: str


class Deliver(Request, tag=1):
    """Journal one letter for the users named, or for this shard's members of ``channel``.

    ``fresh``: the id was made by the router a moment ago, nobody else can have used it.
    ``claim``: this shard is the id's home: it holds the digest that decides about a 409. It may
    have no targets at all. Done body: :class:`Taken`. Refusals: 404 (channel), 409, 503, 507.
    """

    table: int
    id: str
    digest: bytes
    fresh: bool
    claim: bool
    channel: str | None
    users: list[str]
    slots: list[int]
    letter: msgspec.Raw
    priority: int = 5
    """the letter's own, seen before the letter is: under pressure the low ones are refused"""
    shed: int = 0
    """letters that the router has refused since the last one, for what this shard said a moment ago"""
    known_us: int = 0
    """when its home took the same letter for the first time, if this is not that time"""


class Taken(msgspec.Struct, array_like=True, gc=False):
    """How many ``targets`` the letter has on this shard. ``known_us``: when it was taken, if it was known here."""

    targets: int
    known_us: int = 0


class AskReceipt(Request, tag=2):
    """Done body: :class:`ReceiptPart`; an unknown id has ``accepted_us`` 0 and zeros."""

    id: str


class ReceiptPart(msgspec.Struct, array_like=True, gc=False):
    accepted_us: int
    targets: int
    pending: int
    failed: int


class Page(AboutUser, tag=3):
    """Newest first. Done body: ``node.model.Messages`` as msgpack."""

    channel: str | None
    limit: int
    cursor: str | None


class ReadOne(AboutUser, tag=4):
    """Done body: ``node.model.Message``. Refusals: 404."""

    id: str


class Remove(AboutUser, tag=5):
    """Delete one message for good: it comes back by no replay. Done body: None. Refusals: 404."""

    id: str


class PutChannel(Request, tag=6):
    """Done body: bool, whether it is new here. ``None`` fields leave what is there."""

    id: str
    name: str | None
    description: str | None
    created_by: str | None
    now_us: int
    open: bool | None = None
    table: int = 0
    """what the asker goes by: a channel must be put to all shards of one table. 0: it is not looked at"""


class GetChannel(Request, tag=7):
    """Done body: ``node.model.Channel`` with the members of this shard. Refusals: 404."""

    id: str


class DropChannel(Request, tag=8):
    """Forget the channel; its members leave it. Done body: bool, whether it was there."""

    id: str
    table: int = 0
    """as in :class:`PutChannel`"""


class ListChannels(Request, tag=9):
    """By id, after ``after``, those that begin with ``prefix``. Done body: ``list[node.model.Channel]``."""

    after: str
    limit: int
    prefix: str = ""
    open: bool | None = None
    """only those that are, or are not"""


class ChangeMembers(Request, tag=10):
    """Done body: ``node.model.MemberChanged`` of this shard. Refusals: 404 (channel), 403."""

    table: int
    channel: str
    add: list[str]
    remove: list[str]
    slots: list[int]
    """of ``add`` then of ``remove``"""
    now_us: int
    themselves: bool = False
    """they come by themselves: the channel must be open, or they are in it already; else 403"""


class ListMembers(Request, tag=11):
    """By id, after ``after``, those that begin with ``prefix``. Done body: ``list[str]``. Refusals: 404 (channel)."""

    channel: str
    after: str
    limit: int
    prefix: str = ""


class AskUserChannels(AboutUser, tag=12):
    """Done body: ``node.model.UserChannels``. Refusals: 404 (no such box)."""


class Ping(Request, tag=13):
    """Done body: :class:`State`."""


class State(msgspec.Struct, array_like=True, gc=False):
    """What a shard says of itself; ``waiting`` counts letters times targets not yet stored."""

    shard: int
    table: int
    shards: int
    waiting: int
    journal_rows: int
    stored: int
    open_mailboxes: int
    transactions: int
    moving: bool = False
    """people leave it, or come to it, and that is not at its end"""


class AskSync(AboutUser, tag=14):
    """What the box is now; what waits for ``user`` is delivered first. ``device`` is noted in
    ``last_sync.json``, with the version that it has (``local``), if it says. Done body: :class:`SyncState`.
    Refusals: 404 (no such box), 503, 507."""

    device: str | None
    local: str | None = None


class SyncState(msgspec.Struct, array_like=True, gc=False):
    """A version of a box: ``checksum`` (``sha256:`` and 64 hex digits) and ``size`` (bytes) of the file that
    a device gets."""

    version: str
    size: int
    checksum: str


class AskSnapshot(AboutUser, tag=15):
    """The file of a box, for a device to download. ``encoding`` is ``identity``, ``zstd`` or ``gzip``. If
    ``version`` is given and still kept it is that one, else the newest. Done body: :class:`Snapshot`.
    Refusals: 404, 503 (too many are being made), 507."""

    encoding: str
    version: str | None
    device: str | None


class Snapshot(msgspec.Struct, array_like=True, gc=False):
    """An immutable file; it may be unlinked at any moment, so whoever reads it opens it at once (and asks
    again if it is gone). ``file`` is relative to the data directory, ``file_size`` its bytes (as encoded);
    ``state`` is of the identity. ``hidden_by`` is the key of the keystream that it is read through, empty for none."""

    state: SyncState
    file: str
    file_size: int
    hidden_by: bytes = b""


class AskStatuses(AboutUser, tag=18):
    """What changed after ``since`` (None: everything). Done body: ``node.model.ReadStatus``. Refusals: 404."""

    since: str | None
    limit: int


class ChangeStatuses(AboutUser, tag=16):
    """Merge a device's changes, durably, and say what it doesn't know. ``skew_us`` is the node's clock minus the
    device's, as the router saw it. Done body: ``node.model.StatusMerged``. Refusals: 404, 503, 507."""

    since: str | None
    limit: int
    skew_us: int
    changes: list[StatusRow]
    positions: list[PositionRow]


class StatusRow(msgspec.Struct, array_like=True, gc=False):
    message_id: str
    status: str
    at_us: int
    device: str | None


class PositionRow(msgspec.Struct, array_like=True, gc=False):
    channel_id: str
    message_id: str
    at_us: int
    position: int


class AskCounts(AboutUser, tag=17):
    """Done body: ``node.model.Counts``. Refusals: 404."""


class SetMute(AboutUser, tag=30):
    """Mute a channel till ``until_us`` (0: for good), or no longer (None). Done body: None. Refusals: 404 (not in
    it), 503, 507."""

    channel: str
    until_us: int | None


class AskDevices(AboutUser, tag=31):
    """Done body: ``node.model.Devices``. Refusals: 404 (no such box)."""


class ForgetDevice(AboutUser, tag=32):
    """Done body: None. Refusals: 404."""

    device: str


class AskHolders(AboutUser, tag=33):
    """Which devices have message ``id``. Done body: ``node.model.Holders``. Refusals: 404."""

    id: str


class AskMetrics(Request, tag=19):
    """Done body: :class:`Metrics`. Answered from memory, also when nothing else is. Routers answer it too, to
    each other, on sockets of their own."""


class BackUp(Request, tag=47):
    """Begin a backup of this shard, if none is being made. Done body: :class:`BackupState`, of the one that runs."""


class AskBackup(Request, tag=48):
    """Done body: :class:`BackupState`, of the one that runs or was made last."""


class BackupState(msgspec.Struct, array_like=True, gc=False):
    """Boxes ``done`` of ``boxes``: ``copied``, or ``linked`` since they had not changed; ``failed`` of them have none
    of this day, or not all of it. ``whole``: what it says is on disk, journal included. ``error`` is why it isn't."""

    day: str = ""
    running: bool = False
    whole: bool = False
    boxes: int = 0
    done: int = 0
    copied: int = 0
    linked: int = 0
    failed: int = 0
    bytes: int = 0
    """of the copies"""
    began_us: int = 0
    ended_us: int = 0
    error: str = ""


class Restore(AboutUser, tag=49):
    """Bring a box to what it held at ``at_us``. Done body: :class:`Restored`. Refusals: 404 (no backup from before),
    503, 507."""

    at_us: int


class BoxFacts(msgspec.Struct, array_like=True, gc=False):
    """What a box holds; ``checksum`` is of its messages, by id, whatever else is in the file. ``archived``: how many it
    has beside these."""

    messages: int
    removed: int
    checksum: str
    archived: int = 0


class Restored(msgspec.Struct, array_like=True, gc=False):
    """What :class:`Restore` did: from the backup of ``base_us`` and ``letters`` delivered since. ``aside`` is the
    file, in the person's directory, that holds what was there before. ``statuses_us``: as of when read marks are, 0
    if they were left as they are."""

    base_us: int
    letters: int
    before: BoxFacts | None
    after: BoxFacts
    aside: str
    statuses_us: int
    version: str


class DeleteUser(AboutUser, tag=53):
    """Delete all there is of a person, now and for good. Done body: None. Refusals: 404 (nothing is known of them),
    503, 507."""


class Export(AboutUser, tag=54):
    """Files of a person that devices don't get. Done body: ``list[ExportFile]``. Refusals: 404, 503, 507."""


class ExportFile(msgspec.Struct, array_like=True, gc=False):
    """``name`` in an export; ``file`` is relative to the data directory and may be unlinked at any moment.
    ``hidden_by`` as in :class:`Snapshot`."""

    name: str
    file: str
    size: int
    hidden_by: bytes = b""


class AskFull(Request, tag=55):
    """Whose boxes, of ``users``, are full. Done body: ``list[str]``."""

    table: int
    users: list[str]
    slots: list[int]


class AskUsage(AboutUser, tag=56):
    """Done body: ``node.model.Usage``. Refusals: 404 (no such box)."""


class SetQuota(AboutUser, tag=57):
    """How much ``user`` may have: 0 for no limit, None for what the settings say. Also before there is a box. Done
    body: None. Refusals: 503, 507."""

    messages: int | None
    bytes: int | None


class Sample(msgspec.Struct, array_like=True, gc=False):
    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, array_like=True, gc=False):
    """All samples of one metric. ``kind`` is ``counter``, ``gauge`` or ``histogram``."""

    name: str
    kind: str
    help: str
    samples: list[Sample]


class Alert(msgspec.Struct, array_like=True, gc=False):
    """Something that is wrong since ``since_us``: ``value`` is more than ``threshold``."""

    name: str
    since_us: int
    value: float
    threshold: float
    summary: str


class Metrics(msgspec.Struct, array_like=True, gc=False):
    """What one process tells of itself."""

    families: list[Family]
    alerts: list[Alert]


class ListUsers(Request, tag=37):
    """Who has a box on this shard, by id, after ``after``, those that begin with ``prefix``. Done body: ``list[str]``.
    Refusals: 503 while the list is made."""

    prefix: str
    after: str
    limit: int


class AskBoxes(Request, tag=38):
    """Size and content of the boxes of ``users``. Done body: ``list[node.model.UserBox]``."""

    table: int
    users: list[str]
    slots: list[int]


class AskPushKey(Request, tag=25):
    """Done body: str, the node's public key as a browser wants it. Refusals: 404 (turned off)."""


class PutPush(AboutUser, tag=26):
    """From now on tell ``device`` of new messages of ``priority_min`` and above, at ``endpoint`` (RFC 8030), with its
    keys in base64url. Done body: bool, whether the device is new. Refusals: 404 (turned off), 422, 503, 507."""

    device: str
    endpoint: str
    p256dh: str
    auth: str
    priority_min: int


class DropPush(AboutUser, tag=27):
    """Done body: None. Refusals: 404 (it has none), 507."""

    device: str


class ListPush(AboutUser, tag=28):
    """Done body: ``node.model.PushDevices``."""


class ListDeadLetters(Request, tag=20):
    """Of all users of the shard or of one, of any reason or one, the newest first, from ``before`` (when it died, user
    and message id) on. Done body: ``list[DeadLetter]``."""

    user: str | None
    reason: str | None
    before: tuple[int, str, str] | None
    limit: int


class DeadLetter(msgspec.Struct, array_like=True, gc=False):
    """A message that could not be stored for one target. Times are microseconds since 1970."""

    user: str
    message_id: str
    reason: str
    tries: int
    first_us: int
    died_us: int
    accepted_us: int
    channel_id: str
    title: str
    priority: int


class RequeueDeadLetter(AboutUser, tag=21):
    """Journal it once more for its target. Done body: None. Refusals: 404, 503, 507."""

    id: str


class DropDeadLetter(AboutUser, tag=22):
    """Done body: None. Refusals: 404, 503, 507."""

    id: str


class HandOver(Request, tag=60):
    """Get all that is this shard's and isn't by ``placement`` (as in its file) any more ready for its new owners, and
    take nothing new till it is settled which of the two counts. Done body: :class:`HandedOver`. Refusals: 503, 507."""

    name: str
    placement: bytes


class HandedOver(msgspec.Struct, array_like=True, gc=False):
    """There is a parcel for each of ``shards``. ``letters`` could not be stored and go along."""

    shards: list[int]
    people: int
    letters: int
    frozen_us: int
    """how long nothing has been taken already"""


class TakeOver(Request, tag=61):
    """Keep the parcel of handover ``name``; it is this shard's when that handover has come to its end. Done body: None.
    Refusals: 503, 507."""

    name: str


AnyAboutUser = (
    Page
    | ReadOne
    | Remove
    | AskUserChannels
    | AskSync
    | AskSnapshot
    | ChangeStatuses
    | AskStatuses
    | AskCounts
    | PutPush
    | DropPush
    | ListPush
    | Restore
    | DeleteUser
    | AskUsage
    | SetQuota
    | Export
    | SetMute
    | AskDevices
    | ForgetDevice
    | AskHolders
    | RequeueDeadLetter
    | DropDeadLetter
)

AnyRequest = (
    AnyAboutUser
    | Deliver
    | AskReceipt
    | PutChannel
    | GetChannel
    | DropChannel
    | ListChannels
    | ChangeMembers
    | ListMembers
    | Ping
    | AskMetrics
    | ListUsers
    | AskBoxes
    | AskPushKey
    | BackUp
    | AskBackup
    | AskFull
    | ListDeadLetters
    | HandOver
    | TakeOver
)


class Done(msgspec.Struct, array_like=True, tag=0, gc=False):
    rid: int
    body: msgspec.Raw


class Failed(msgspec.Struct, array_like=True, tag=1, gc=False):
    rid: int
    problem: Problem
    shut: Shut | None = None


encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(AnyRequest).decode
decode_answer = msgspec.msgpack.Decoder(Done | Failed).decode


def failed(rid: int, error: PoboxError) -> bytes:
    """The frame that refuses request ``rid``."""
    return encode(Failed(rid, error.problem(), error.shut))
