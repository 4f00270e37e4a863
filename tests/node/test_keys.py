"""Service keys and the node's own tokens, in their files."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner, Result

from node import clock, keys, paths, tokens
from node.cli import main
from node.errors import BadField, ConfigError


def pobox(data: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--data", str(data)])


def test_a_key_is_shown_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    shown = keys.create(tmp_path, "billing", ["read", "deliver", "read"])
    (kept,) = keys.load(tmp_path)
    assert (kept.name, kept.scopes, kept.expires, kept.rate) == ("billing", ["deliver", "read"], None, 0)
    secret = shown.split("_", 2)[2]  # it may hold a "_" itself
    content = paths.keys_path(tmp_path).read_bytes()
    assert secret.encode() not in content
    assert paths.keys_path(tmp_path).stat().st_mode & 0o777 == 0o600
    assert keys.Ring([kept]).find(shown) == kept


def test_what_only_looks_like_a_key_finds_none(tmp_path: Path) -> None:
    shown = keys.create(tmp_path, "billing", ["read"])
    ring = keys.Ring(keys.load(tmp_path))
    swapped = shown[:-1] + ("A" if shown[-1] != "A" else "B")
    for wrong in (
        "",
        "pobox_",
        shown[:-1],
        shown + "A",
        swapped,
        shown.upper(),
        shown.replace("_", "-", 1),
        shown + "\n",
    ):
        assert ring.find(wrong) is None


def test_a_name_is_taken_once_and_free_again_when_its_key_is_revoked(tmp_path: Path) -> None:
    first = keys.create(tmp_path, "billing", ["read"])
    with pytest.raises(BadField, match="already"):
        keys.create(tmp_path, "billing", ["read"])
    keys.revoke(tmp_path, "billing")
    assert keys.load(tmp_path) == []
    assert keys.create(tmp_path, "billing", ["read"]) != first
    keys.revoke(tmp_path, keys.load(tmp_path)[0].id)
    with pytest.raises(BadField, match="no key billing"):
        keys.revoke(tmp_path, "billing")


def _create_some(data: Path, maker: int) -> None:
    for number in range(10):
        keys.create(data, f"key-{maker}-{number}", ["deliver"])


def test_keys_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    makers = [multiprocessing.Process(target=_create_some, args=(tmp_path, maker)) for maker in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(keys.load(tmp_path)) == 30


def test_a_file_that_is_not_ours_is_refused_by_its_name(tmp_path: Path) -> None:
    paths.keys_path(tmp_path).write_text('{"version": 1, "keys": [{"id": 1}]}')
    with pytest.raises(ConfigError, match=r"keys\.json"):
        keys.load(tmp_path)


def test_keys_are_made_listed_and_revoked_from_a_shell(tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = pobox(data, "key", "create", "--name", "crm", "--scope", "deliver,read", "--expires", "90d", "--rate", "50")
    assert re.fullmatch(r"pobox_[0-9a-f]{12}_[A-Za-z0-9_-]{43}\n", made.output)
    listed = pobox(data, "key", "list").output
    name, _id, scopes, _created, expires, rate, burst = listed.rstrip("\n").split("\t")
    assert (name, scopes, rate, burst) == ("crm", "deliver,read", "50/s", "100")
    assert clock.iso(clock.now_us() + 89 * 86_400_000_000) < expires < clock.iso(clock.now_us() + 91 * 86_400_000_000)
    assert made.output.strip().split("_", 2)[2] not in listed
    again = pobox(data, "key", "create", "--name", "crm", "--scope", "read")
    assert (again.exit_code, again.output) == (1, "Error: there is a key crm already\n")
    wrong = pobox(data, "key", "create", "--name", "x", "--scope", "write")
    assert wrong.exit_code == 2
    assert "write is none of deliver, channels, read, admin, metrics" in wrong.output
    assert pobox(data, "key", "create", "--name", "x", "--scope", "read", "--expires", "1y").exit_code == 2
    assert "revoked" in pobox(data, "key", "revoke", "crm").output
    assert pobox(data, "key", "list").output == ""


def test_a_token_says_who_for_how_long_and_by_which_secret(tmp_path: Path) -> None:
    shown = pobox(tmp_path, "token", "ann", "--expires", "1h").output.strip()
    secret = tokens.load(tmp_path)
    assert secret is not None
    assert paths.token_secret_path(tmp_path).stat().st_mode & 0o777 == 0o600
    claims = jwt.decode(shown, secret, algorithms=["HS256"], issuer="pobox")
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("ann", 3600)
    assert jwt.get_unverified_header(shown)["kid"] == tokens.kid_of(secret)
    assert tokens.issue(tmp_path, "bob", 60)
    assert tokens.load(tmp_path) == secret, "the second token is signed with the same secret"
    assert pobox(tmp_path, "token", "../ann").exit_code == 1


@pytest.mark.parametrize(("content", "mode", "why"), [("x" * 31, 0o600, "32 bytes"), ("x" * 64, 0o644, "chmod")])
def test_a_secret_that_is_none_is_refused(tmp_path: Path, content: str, mode: int, why: str) -> None:
    path = paths.token_secret_path(tmp_path)
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=why):
        tokens.load(tmp_path)
