"""Where things lie in the data directory. Pure.

::

    node.lock                       held by the supervisor
    vapid.pem                       key pair by which push services know the node
    placement.json                  table version and number of shards
    keys.json                       service keys, hashed
    token.secret                    what signs the node's own user tokens
    journals-<version>/shard-<i>.db journal, receipts, members of one shard
    run/shard-<i>.sock|.lock        one shard's socket, and the lock that makes it the only one
    run/router-<k>.sock             where a router tells the others its figures
    run/placement.lock              held by whoever changes placement.json on a running node
    run/handover                    the name of the handover of slots that is under way (node.reshard)
    run/parcel-<name>-<i>           what shard <i> is to take over by it
    run/changes-<i>                 counters that say for which users something came (node.changes)
    snapshots/shard-<i>/            copies of boxes for devices; emptied when the shard starts
    backups/<day>/<version>/        of each shard: its journal, and what the backup of that day holds
    history/<version>-<n>/shard-<i>/ letters that were delivered, for a while
    audit/<chain>-<number>.jsonl    who did what (node.audit); audit-heads/ says how far each chain reaches
    user_storage/<slot>/<userId>/   one person's box; archive/ in it is what is old
    user_storage/erased-<userId>/   a box that is being deleted
    user_storage/keyring/           keys of encrypted files, wrapped
"""

from __future__ import annotations

import os
from pathlib import Path

from node.slots import slot_of


def run_dir(data: Path) -> Path:
    return data / "run"


def socket_path(data: Path, shard: int) -> Path:
    return run_dir(data) / f"shard-{shard}.sock"


def router_socket_path(data: Path, router: int) -> Path:
    return run_dir(data) / f"router-{router}.sock"


def shard_lock(data: Path, shard: int) -> Path:
    return run_dir(data) / f"shard-{shard}.lock"


def journals_dir(data: Path, version: int) -> Path:
    return data / f"journals-{version}"


def shard_db(data: Path, version: int, shard: int) -> Path:
    return journals_dir(data, version) / f"shard-{shard}.db"


def keys_path(data: Path) -> Path:
    return data / "keys.json"


def keyring_dir(data: Path) -> Path:
    """Beside the boxes: what makes these durable covers notes in it."""
    return boxes_dir(data) / "keyring"


def token_secret_path(data: Path) -> Path:
    return data / "token.secret"


def changes_path(data: Path, shard: int) -> Path:
    return run_dir(data) / f"changes-{shard}"


def placement_path(data: Path) -> Path:
    return data / "placement.json"


def placement_lock(data: Path) -> Path:
    return run_dir(data) / "placement.lock"


def handover_path(data: Path) -> Path:
    return run_dir(data) / "handover"


def parcel_path(data: Path, handover: str, shard: int) -> Path:
    return run_dir(data) / f"parcel-{handover}-{shard}"


def snapshots_dir(data: Path, shard: int) -> Path:
    return data / "snapshots" / f"shard-{shard}"


def vapid_path(data: Path) -> Path:
    return data / "vapid.pem"


def node_files(data: Path) -> list[Path]:
    """Files that are the node's, not a shard's or a person's, and that it can't do without or make anew."""
    return [keys_path(data), token_secret_path(data), vapid_path(data)]


def backups_dir(data: Path) -> Path:
    return data / "backups"


def history_dir(data: Path) -> Path:
    return data / "history"


def audit_dir(data: Path) -> Path:
    return data / "audit"


def audit_heads_dir(data: Path) -> Path:
    return data / "audit-heads"


def boxes_dir(data: Path) -> Path:
    return data / "user_storage"


def user_dir(data: Path, user: str) -> Path:
    return boxes_dir(data) / str(slot_of(user)) / user


def erased_dir(data: Path, user: str) -> Path:
    """Where a deleted person's directory is renamed to before it is removed; no slot's name."""
    return boxes_dir(data) / f"erased-{user}"


_ADDRESS_MAX = 100  # of sun_path's 108 bytes


def socket_address(path: Path) -> str:
    """``path`` as something to bind or connect to, however long it is (kernel limit: 108 bytes)."""
    if len(os.fsencode(path)) <= _ADDRESS_MAX:
        return str(path)
    fd = _directories.get(path.parent)
    if fd is None:
        fd = _directories[path.parent] = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    return f"/proc/self/fd/{fd}/{path.name}"


_directories: dict[Path, int] = {}
