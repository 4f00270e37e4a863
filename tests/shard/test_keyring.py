"""The keyring: what it gives out it finds again, for its owner alone, until it is destroyed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import from_url

from node import paths
from node.config import Encryption, load
from node.errors import ConfigError
from shard import keyring as module
from shard import master_key, oblivion, offsite
from shard.keyring import KeyDestroyed, KeyLost, Keyring, confirm, is_rotating, open_keyring, open_with, rotate
from shard.sqlite import Key, can_encrypt
from tests import encrypted
from tests.shard.running import scratch

MASTER = bytes(range(32))
OWNERS = ["ada", "bob", "cy"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("new"), st.sampled_from(OWNERS)),
        st.tuples(st.just("grow"), st.sampled_from(OWNERS)),
        st.tuples(st.just("destroy"), st.sampled_from(OWNERS)),
        st.tuples(st.sampled_from(["stop", "kill", "rotate", "confirm"]), st.just("")),
    ),
    max_size=40,
)


def made(directory: Path) -> Keyring:
    return open_with(MASTER, directory / "keyring", make=True)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 4)


@settings(max_examples=60)
@given(STEPS)
def test_keys_are_found_by_their_owners_until_they_are_destroyed_whatever_happens(steps: list[tuple[str, str]]) -> None:
    with scratch() as directory:
        master, before, keyring = MASTER, None, made(directory)
        known: dict[str, list[Key]] = {owner: [] for owner in OWNERS}
        dead: list[tuple[str, Key]] = []
        seen: set[bytes] = set()
        grown: set[str] = set()
        for step, owner in steps:
            if step == "new":
                key = keyring.new(owner)
                assert key.id not in seen, "given out twice"
                seen.add(key.id)
                known[owner].append(key)
            elif step == "grow" and known[owner]:
                keyring.grow(known[owner][-1])
                grown.add(owner)
            elif step == "destroy":
                assert keyring.destroy(owner) == len(known[owner])
                dead += [(owner, key) for key in known[owner]]
                known[owner] = []
                grown.discard(owner)
            elif step in ("stop", "kill", "rotate", "confirm"):
                if step == "stop":
                    keyring.close()
                if step == "rotate":
                    before, fresh = master, os.urandom(32)
                    rotate(directory / "keyring", master, fresh)
                    master = fresh
                if step == "confirm":
                    confirm(directory / "keyring", master)
                    before = None
                keyring = open_with(before or master, directory / "keyring")
            for name, keys in known.items():
                assert [keyring.find(key.id, name) for key in keys] == keys
                assert keyring.has_grown(name) == (name in grown)
            for name, key in dead:
                with pytest.raises(KeyDestroyed):
                    keyring.find(key.id, name)


def test_a_key_is_of_its_owner_and_of_no_other(tmp_path: Path) -> None:
    keyring = made(tmp_path)
    key = keyring.new("ada")
    assert keyring.find(key.id, "bob") != key


def test_a_batch_that_is_gone_or_damaged_is_not_taken_for_a_key_that_was_destroyed(tmp_path: Path) -> None:
    keyring = made(tmp_path)
    key = keyring.new("ada")
    (batch,) = (tmp_path / "keyring").glob("*.keys")
    content = batch.read_bytes()
    batch.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(KeyLost, match="damaged"):
        keyring.find(key.id, "ada")
    batch.unlink()
    with pytest.raises(KeyLost, match="no batch") as raised:
        keyring.find(key.id, "ada")
    assert not isinstance(raised.value, KeyDestroyed)


def test_nothing_of_a_key_is_in_the_keyring_without_the_master_key(tmp_path: Path) -> None:
    keyring = made(tmp_path)
    key = keyring.new("zoe")
    for path in keyring.files():
        assert key.secret not in path.read_bytes()
        assert b"zoe" not in path.read_bytes()
    with pytest.raises(ConfigError, match="master key doesn't open"):
        open_with(bytes(32), tmp_path / "keyring")


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", ["write_all", "sync_directory", "os.fsync"])
def test_a_rotation_that_is_killed_leaves_a_master_key_that_the_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    directory, new, third = tmp_path / "keyring", os.urandom(32), os.urandom(32)
    root = made(tmp_path).derived("test")

    def killed(work: Callable[[], None], *settings: bytes) -> None:
        def die(*_arguments: object) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(f"node.placement.{step}", die)
            with pytest.raises(Killed):
                work()
        opening(*settings)
        work()

    def opening(*settings: bytes) -> None:
        for master in settings:
            assert open_with(master, directory).derived("test") == root

    killed(lambda: rotate(directory, MASTER, third), MASTER)
    killed(lambda: rotate(directory, MASTER, new), MASTER)  # that file was lost before anything named it
    with pytest.raises(ConfigError, match="another one's"):
        open_with(third, directory)
    assert is_rotating(directory)
    with pytest.raises(ConfigError, match="names no file with the new"):
        confirm(directory, MASTER)
    opening(MASTER, new)
    killed(lambda: confirm(directory, new), new)
    assert not is_rotating(directory)
    opening(new)
    with pytest.raises(ConfigError, match="another one's"):
        open_with(MASTER, directory)
    with pytest.raises(ConfigError, match="already"):
        rotate(directory, new, new)


def test_what_is_left_of_a_batch_at_an_orderly_end_takes_no_room(tmp_path: Path) -> None:
    keyring = made(tmp_path)
    keyring.new("ada")
    keyring.close()
    (batch,) = (tmp_path / "keyring").glob("*.keys")
    assert batch.stat().st_size == module._ENTRY


def test_a_root_that_was_lost_is_not_made_anew_over_the_keys_that_it_wraps(tmp_path: Path) -> None:
    keyring = made(tmp_path)
    keyring.new("ada")
    (tmp_path / "keyring" / "root.json").unlink()
    with pytest.raises(ConfigError, match="put it back"):
        made(tmp_path)


def test_whoever_makes_the_root_at_the_same_time_has_the_same(tmp_path: Path) -> None:
    for number in range(20):
        directory, ready = tmp_path / str(number), threading.Barrier(4)

        def make(directory: Path = directory, ready: threading.Barrier = ready) -> bytes:
            ready.wait()
            return made(directory).derived("test")

        with ThreadPoolExecutor(4) as pool:
            roots = [one.result() for one in [pool.submit(make) for _ in range(4)]]
        assert set(roots) == {made(directory).derived("test")}
        assert [path.name for path in (directory / "keyring").iterdir()] == ["root.json"]


def test_a_keyring_off_site_is_replaced_by_its_own_alone(tmp_path: Path) -> None:
    store = from_url(f"file://{tmp_path}/store", mkdir=True)
    for name in ("a", "b"):
        (paths.backups_dir(tmp_path / name)).mkdir(parents=True)
    ours, begun_anew = made(tmp_path / "a"), made(tmp_path / "b")
    ours.new("ada")
    begun_anew.new("ada")
    oblivion.erase(tmp_path / "a", store, [], ours)
    before = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()}
    assert before
    with pytest.raises(offsite.Incomplete, match="another keyring"):
        oblivion.erase(tmp_path / "b", store, [], begun_anew)
    assert {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()} == before
    # Another master key, and a directory that was set back to before its keys were made, are no other keyring.
    rotate(tmp_path / "a" / "keyring", MASTER, bytes(32))
    (keys,) = (tmp_path / "a" / "keyring").glob("*.keys")
    keys.unlink()
    back = open_with(bytes(32), tmp_path / "a" / "keyring")
    back.new("bob")
    oblivion.erase(tmp_path / "a", store, [], back)
    assert len(list((tmp_path / "store" / "keyring").glob("*.keys"))) == 2


def test_a_master_key_is_on_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durable: list[Path] = []
    monkeypatch.setattr(master_key, "sync_directory", durable.append, raising=False)
    master_key.make(tmp_path / "master.key")
    assert durable == [tmp_path]


def test_a_master_key_is_made_once_and_read_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    key = master_key.make(path)
    assert (master_key.read(path), path.stat().st_mode & 0o777) == (key, 0o600)
    with pytest.raises(ConfigError, match="File exists"):
        master_key.make(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        master_key.read(path)
    path.chmod(0o600)
    path.write_text("not a key\n")
    with pytest.raises(ConfigError, match="64 hex digits"):
        master_key.read(path)


def test_a_credential_of_systemd_is_as_good_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = master_key.make(tmp_path / "pobox.master-key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "pobox.master-key").chmod(0o440)
    assert master_key.load(load(environ=os.environ, overrides={"encryption": {"enabled": True}}).encryption) == key


@pytest.mark.skipif(can_encrypt(), reason="only where SQLite has no ciphers")
def test_without_the_library_that_encrypts_a_node_doesnt_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="apsw-sqlite3mc"):
        open_keyring(Encryption(enabled=True), tmp_path)


def test_a_node_that_encrypts_isnt_started_without(tmp_path: Path) -> None:
    assert open_keyring(Encryption(), tmp_path) is None
    paths.keyring_dir(tmp_path).mkdir(parents=True)  # there was no room for a root
    assert open_keyring(Encryption(), tmp_path) is None
    open_with(MASTER, paths.keyring_dir(tmp_path), make=True)
    with pytest.raises(ConfigError, match="enabled must be true"):
        open_keyring(Encryption(), tmp_path)


@encrypted.needed
def test_a_node_that_is_to_encrypt_needs_its_master_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no file"):
        open_keyring(Encryption(enabled=True), tmp_path, make=True)
