"""One configuration, checked once, frozen.

``pobox.toml`` (or the file named by ``POBOX_CONFIG``) holds tables; every key can also come from
the environment: ``[shard] postmen`` is ``POBOX_SHARD_POSTMEN``. Command line beats environment
beats file beats default. A key that isn't known is an error. ``POBOX_KEY`` is no setting: it is what the command
line shows a node to be let in.

A setting that names a file with a secret, and is empty, is the credential of that name which systemd hands to a unit
(``LoadCredential=``), if it does: a file in ``$CREDENTIALS_DIRECTORY``.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from node.breaker import SILENCE_S
from node.errors import ConfigError

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
Bytes = Annotated[int, Meta(ge=0)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Node(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    data: str = "data"
    """the data directory"""
    shards: Annotated[int, Meta(ge=1, le=256)] = 2
    routers: Annotated[int, Meta(ge=1, le=64)] = 1
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    ops_channel: str = ""
    """the channel that gets a message when an alert begins or ends; none if it is empty"""


class Auth(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    mode: Literal["open", "keys"] = "open"
    """open: whoever reaches the node may do everything, so it serves loopback only. keys: services need a key, people a
    token"""
    jwks_file: str = ""
    """public keys (JWK Set) of the issuer whose tokens are taken beside those of ``pobox token``"""
    jwt_secret_file: str = ""
    """or the secret that it signs with (HS256), 32 bytes or more"""
    issuer: str = ""
    """what ``iss`` must be in its tokens"""
    audience: str = ""
    """and ``aud``: that they were made for this node"""


class Tls(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    certificate: str = ""
    """a file with the certificate and those between it and its root (PEM); with it the routers speak TLS and nothing
    else. SIGHUP has it read again"""
    key: str = ""
    """the file with its key"""


class Router(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    body_bytes_max: Bytes = 1_048_576
    batch_bytes_max: Bytes = 16 * 1_048_576
    header_timeout_s: Seconds = 10
    body_timeout_s: Seconds = 30
    idle_timeout_s: Seconds = 60
    shard_timeout_s: Seconds = 5
    silence_s: Seconds = SILENCE_S
    """a shard that is asked, pings too, and says nothing at all for so long is taken for hung: 503 until it speaks"""
    delta_bytes_max: Bytes = 8 * 1_048_576
    """the page hashes of one device's file: eight bytes for each four thousand of it"""
    user_rate: Annotated[float, Meta(ge=0)] = 0
    """messages a second to one user (each as a named target) that are taken in the long run; 0: as many as come"""
    user_burst: Count = 1_000
    """and so many at once"""
    listeners_max: Count = 5_000
    """devices that listen for events, a router"""
    stall_timeout_s: Seconds = 60
    """a client that takes nothing of its answer for this long is given up"""
    connections_max: Count = 10_000
    connections_per_address_max: Count = 1_000
    """but any number from this machine and from trusted proxies"""
    headers_max: Count = 100
    trusted_proxies: str = ""
    """addresses or networks, separated by commas: what they say in X-Forwarded-For and X-Forwarded-Proto is believed"""
    cors_origins: str = ""
    """origins (https://mail.example), separated by commas, whose pages may ask; none but the node's own otherwise"""


class Shard(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    postmen: Count = 10
    """to begin with; they become more and fewer with the load, but never fewer than two"""
    postmen_max: Count = 40
    slice_ms: Annotated[float, Meta(gt=0)] = 2.0
    """how long deliveries may keep the loop at a stretch"""
    gather_max_s: Seconds = 5.0
    """under load a letter of normal priority waits this long at most, so that more go at once"""
    mailboxes_open_max: Count = 8_192
    """about 120 kB (encrypted 190) and three descriptors each; the limit of descriptors may lower it, and so does
    memory while it is short. Set it near the number of people who get mail at the same time"""
    mailbox_idle_s: Seconds = 900
    """a box that nobody has used for so long is checkpointed and closed"""
    archive_after_days: Annotated[int, Meta(ge=0)] = 0
    """a message that is older moves to ``archive/`` beside the box: still read over the API, no more synced to devices;
    0: never"""
    retention_days: Annotated[int, Meta(ge=0)] = 0
    """a message that was made and accepted longer ago is deleted by itself, from the archive too; 0: never"""
    quota_messages: Annotated[int, Meta(ge=0)] = 0
    """a box that holds so many takes nothing new, for whoever has no quota of their own; its archive is not counted. 0:
    no limit"""
    quota_bytes: Annotated[int, Meta(ge=0)] = 0
    """the same, in bytes of titles, texts and metadata"""
    wal_pages_max: Count = 512
    """a mailbox is checkpointed when its write-ahead log is this long"""
    barrier_s: Seconds = 5.0
    """between two flushes that let journal rows go"""
    window_letters: Count = 500_000
    """letters times targets that are held in memory for each of the three lanes; what comes beyond that waits in the
    journal. Set it above what comes in ``gather_max_s``"""
    window_bytes: Count = 128 * 1024**2
    """and the bytes of these letters"""
    journal_rows_max: Count = 10_000_000
    """letters accepted and not yet let go; above it: 503"""
    waiting_max: Count = 10_000_000
    """letters times targets not yet in their boxes; above it: 503"""
    waiting_bytes_max: Bytes = 8 * 1024**3
    """of the bodies of letters not yet in their boxes; above it: 503"""
    wait_max_s: Seconds = 600
    """new mail that would wait longer than this, at the rate at which mail is stored, is refused; but never that of
    priority 8 and above"""
    journal_bytes_max: Bytes = 16 * 1024**3
    """on disk; above it: 503. A start reads through all of it, and holds as much in memory as the windows"""
    disk_reserve_bytes: Bytes = 64 * 1_048_576
    """with less free on the disk nothing new is accepted: 507"""
    receipt_s: Seconds = 86_400
    """how long receipts, and with them the check for a second body, are kept"""
    receipts_max: Count = 2_000_000
    statuses_open_max: Count = 512
    """read_status.db files held open"""
    snapshot_bytes_max: Bytes = 1024**3
    """of the snapshots kept for devices that download"""
    snapshot_s: Seconds = 600
    """how long one is kept after it was last asked for"""


class Push(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    enabled: bool = True
    """devices may subscribe; nothing is sent before one does"""
    subject: Annotated[str, Meta(pattern=r"^(mailto:[^@\s]+@[^@\s]+|https://\S+)\Z")] = "mailto:postmaster@localhost"
    """whom a push service may turn to; some take none but a real address"""
    content: Literal["none", "title", "text"] = "title"
    """what of a message goes along: nothing, its title, or the beginning of its text too"""
    priority_min: Annotated[int, Meta(ge=1, le=10)] = 1
    """below it nobody is told, whatever a device asks for"""
    allow_private: bool = False
    """send to private addresses too, and over plain HTTP: for a push service in a network of one's own"""
    concurrency: Count = 16
    """requests under way at the same time, a shard"""
    queue_max: Count = 20_000
    """devices that wait to be told, a shard; beyond it the least urgent are not told"""
    rest_s: Seconds = 2.0
    """a device that was told is told again after this long; what is urgent doesn't wait for it"""
    webhook: Annotated[str, Meta(pattern=r"^(https?://\S+)?\Z")] = ""
    """each message for each user is posted here as well; {userId} in it is replaced"""
    webhook_format: Literal["json", "ntfy"] = "json"


class Backup(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    at: Annotated[str, Meta(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9])?\Z")] = "03:10"
    """when a backup is made every day, UTC; empty: only when somebody asks for it. Under systemd the timer says when:
    install the units again after a change"""
    keep_days: Count = 30
    """older backups are removed"""
    history_s: Seconds = 0
    """how long letters are kept after they were delivered, so that a box can be restored to any moment between two
    backups; 0: not at all. Two days (172800) reach from any moment of yesterday back to the backup before it"""
    store: str = ""
    """where backups go besides: "s3://bucket/prefix", or "file:///directory"; nowhere if it is empty"""
    endpoint: str = ""
    """of an S3 store that isn't Amazon's, "https://host:port"; http:// only on loopback"""
    region: str = "us-east-1"
    credentials: str = ""
    """a file of lines AWS_ACCESS_KEY_ID=... and AWS_SECRET_ACCESS_KEY=...; without it the environment has them"""


class Audit(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    deliveries: bool = False
    """write down who delivered which message, too"""
    own_reads: bool = False
    """write down what people read of their own box, too; in open mode, everything that anybody reads"""
    keep_days: Count = 365
    """older files are removed, and a line says so"""
    file_bytes_max: Count = 16 * 1_048_576
    """a new file begins each day, and when one is this long"""


class Encryption(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    enabled: bool = False
    """mailboxes, read marks, archives, journals, history and backups are encrypted on disk; needs apsw-sqlite3mc in the
    place of apsw. What is there already stays plain until ``pobox encrypt``"""
    master_key: str = ""
    """the file with the master key (``pobox master-key new``), mode 0600, outside of the data directory"""


class Retry(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    base_s: Seconds = 0.5
    """the first pause after a few quick tries; doubled with each try that fails"""
    cap_s: Seconds = 600
    """the longest pause; a read tries at once all the same"""
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """pauses are shortened by chance by up to this part of themselves"""
    tries_max: Count = 400
    """after so many tries a message is a dead letter: with these pauses in a day and a half at the earliest"""
    dead_letters_max: Count = 100_000
    """kept by a shard; the oldest go first"""
    dead_letters_bytes_max: Bytes = 128 * 1_048_576
    """of their bodies, which count as part of the journal"""
    dead_letters_s: Seconds = 30 * 86_400
    """how long one is kept"""


class Config(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    node: Node = Node()
    auth: Auth = Auth()
    tls: Tls = Tls()
    router: Router = Router()
    shard: Shard = Shard()
    push: Push = Push()
    backup: Backup = Backup()
    audit: Audit = Audit()
    retry: Retry = Retry()
    encryption: Encryption = Encryption()


_CREDENTIALS = {
    ("tls", "certificate"): "pobox.tls-certificate",
    ("tls", "key"): "pobox.tls-key",
    ("auth", "jwks_file"): "pobox.jwks",
    ("auth", "jwt_secret_file"): "pobox.jwt-secret",
    ("backup", "credentials"): "pobox.store",
    ("encryption", "master_key"): "pobox.master-key",
}
_NO_SETTINGS = ("POBOX_CONFIG", "POBOX_KEY")
_SECTIONS = {
    "node": Node, "auth": Auth, "tls": Tls, "router": Router, "shard": Shard, "push": Push, "backup": Backup,
    "audit": Audit, "retry": Retry, "encryption": Encryption,
}  # fmt: skip


def load(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Config:
    """The configuration from file, environment and ``overrides`` (``{"node": {"port": 1}}``).

    Raises :class:`ConfigError` naming what is wrong: the file, the table and its key, or the variable.
    """
    environ = os.environ if environ is None else environ
    named = path or (Path(environ["POBOX_CONFIG"]) if environ.get("POBOX_CONFIG") else None)
    file = named or Path("pobox.toml")
    tables: dict[str, Any] = {}
    if named or file.exists():
        try:
            tables = tomllib.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file}: {error}") from error
    for section in tables:
        if section not in _SECTIONS or not isinstance(tables[section], dict):
            raise ConfigError(f"{file}: unknown table or key: {section}")
    known = {
        f"POBOX_{section}_{field}".upper(): (section, field)
        for section, struct in _SECTIONS.items()
        for field in struct.__struct_fields__
    }
    for variable in environ:
        if variable.startswith("POBOX_") and variable not in known and variable not in _NO_SETTINGS:
            raise ConfigError(f"unknown environment variable: {variable}")
    for variable, (section, field) in known.items():
        if variable in environ:
            tables.setdefault(section, {})[field] = environ[variable]
    for (section, field), credential in _CREDENTIALS.items():
        handed = Path(environ.get("CREDENTIALS_DIRECTORY", "")) / credential
        if handed.is_absolute() and os.access(handed, os.R_OK) and not tables.get(section, {}).get(field):
            tables.setdefault(section, {})[field] = str(handed)
    for section, values in (overrides or {}).items():
        tables.setdefault(section, {}).update({k: v for k, v in values.items() if v is not None})
    sections = {}
    for section, values in tables.items():
        try:
            sections[section] = msgspec.convert(values, _SECTIONS[section], strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"[{section}] {error}") from error
    return Config(**sections)


def handed_on(config: Config) -> dict[str, str]:
    """The environment of a child process: this one's, and the whole of ``config``, so that it reads no file again."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("POBOX_")}
    return {**inherited, **environment(config), "POBOX_CONFIG": os.devnull}


def environment(config: Config) -> dict[str, str]:
    """``config`` as the environment that makes a child process load the very same."""
    return {
        f"POBOX_{section}_{field}".upper(): str(getattr(getattr(config, section), field))
        for section, struct in _SECTIONS.items()
        for field in struct.__struct_fields__
    }
