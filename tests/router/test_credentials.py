"""Keys and tokens as a running router takes them: what changes in their files changes there."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from node import keys, paths
from node.config import Auth
from node.errors import ConfigError
from router import jwts
from router.credentials import FileCredentials
from router.problems import Unauthorized
from tests.router.conftest import Running, running, until
from tests.router.credentials import AUTH, ISSUER, claims, jwks, key, own_claims, replace, signed, token

ANN = "/api/v3/users/ann/messages"
MESSAGE = {"users": ["ann"], "title": "t", "content": "c"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("guarded"), 1, auth=AUTH) as made:
        yield made


def data_of(router: Running) -> Path:
    return router.log.parent


def reads(router: Running, shown: dict[str, str]) -> int:
    return router.http.get(ANN, headers=shown).status_code


@pytest.mark.slow
def test_a_key_made_or_revoked_counts_on_a_running_router(guarded: Running) -> None:
    shown = key(data_of(guarded), "reader", "read")
    until(lambda: reads(guarded, shown) == 200)
    keys.revoke(data_of(guarded), "reader")
    until(lambda: reads(guarded, shown) == 401)


@pytest.mark.slow
def test_tokens_end_with_the_secret_that_signed_them(guarded: Running) -> None:
    shown = token(data_of(guarded), "ann")
    until(lambda: reads(guarded, shown) == 200)
    paths.token_secret_path(data_of(guarded)).unlink()
    until(lambda: reads(guarded, shown) == 401)
    fresh = token(data_of(guarded), "ann")
    until(lambda: reads(guarded, fresh) == 200)
    assert reads(guarded, shown) == 401


@pytest.mark.slow
def test_a_damaged_file_changes_nothing_and_is_told_once(guarded: Running) -> None:
    shown = key(data_of(guarded), "stays", "read")
    until(lambda: reads(guarded, shown) == 200)
    path = paths.keys_path(data_of(guarded))
    content = path.read_bytes()
    replace(path, b"{")
    until(lambda: b"what was read before stays" in guarded.log.read_bytes())
    assert reads(guarded, shown) == 200
    replace(path, content)
    keys.revoke(data_of(guarded), "stays")
    until(lambda: reads(guarded, shown) == 401)
    assert guarded.log.read_bytes().count(b"what was read before stays") == 1


@pytest.mark.slow
def test_a_key_asks_for_no_more_than_its_rate_and_hears_how_much_is_left(guarded: Running) -> None:
    shown = key(data_of(guarded), "slow", "deliver", "read", rate=0.001, burst=5)
    until(lambda: reads(guarded, shown) != 401)  # the first of five
    answer = guarded.http.post("/api/v3/messages", json=MESSAGE, headers=shown)
    assert answer.status_code == 202
    assert answer.headers["ratelimit-policy"] == '"key";q=5;w=5000'
    assert answer.headers["ratelimit"].startswith('"key";r=3;t=')
    lines = "\n".join(json.dumps(MESSAGE | {"id": f"line-{n}"}) for n in range(4))
    headers = {**shown, "content-type": "application/x-ndjson"}
    batch = guarded.http.post("/api/v3/messages/batch", content=lines, headers=headers)
    assert batch.json()["accepted"] == 2, "one for the request, one for each of two lines"
    assert {line["status"] for line in batch.json()["rejected"]} == {429}
    assert batch.headers["ratelimit"].startswith('"key";r=0;t=')
    refused = guarded.http.get(ANN, headers=shown)
    assert (refused.status_code, refused.json()["code"]) == (429, "key_limit")
    assert int(refused.headers["retry-after"]) > 100
    other = key(data_of(guarded), "other", "read", rate=1000)
    until(lambda: reads(guarded, other) == 200)
    assert reads(guarded, shown) == 429, "another key's coming is no fresh start for this one"


def test_what_a_key_may_ask_for_is_shared_among_the_routers(tmp_path: Path) -> None:
    keys.create(tmp_path, "k", ["read"], rate=40, burst=80)
    credentials = FileCredentials(tmp_path, Auth(mode="keys"), routers=4)
    (caller,) = credentials._callers.values()
    assert caller.share is not None
    assert caller.share._limiter.policy() == '"key";q=20;w=2'


def theirs(tmp_path: Path, **more: str) -> FileCredentials:
    auth = Auth(mode="keys", issuer=ISSUER["issuer"], audience=ISSUER["audience"], **more)
    return FileCredentials(tmp_path, auth, routers=1)


def user(credentials: FileCredentials, shown: str) -> str | None:
    """Whose token it is; None if it is nobody's."""
    try:
        return credentials.caller(f"bEARER {shown}".encode()).user
    except Unauthorized:
        return None


def entry(algorithm: Any, public: Any, **more: str) -> dict[str, Any]:
    made: dict[str, Any] = algorithm.to_jwk(public, as_dict=True)
    return {**made, **more}


def test_tokens_of_the_companys_issuer_are_taken_by_its_public_keys(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    first, second = rsa.generate_private_key(65_537, 2048), ed25519.Ed25519PrivateKey.generate()
    third = ec.generate_private_key(ec.SECP256R1())
    jwks(
        path,
        [
            entry(RSAAlgorithm, first.public_key(), kid="one", use="sig"),
            entry(OKPAlgorithm, second.public_key(), kid="two"),
            entry(ECAlgorithm, third.public_key(), kid="three"),
            entry(RSAAlgorithm, first.public_key(), kid="not-for-signing", use="enc"),
        ],
    )
    credentials = theirs(tmp_path, jwks_file=str(path))

    def made(private: Any, kid: str | None, algorithm: str, **more: Any) -> str:
        return signed(private, claims("ann", **more), kid=kid, algorithm=algorithm)

    assert user(credentials, made(first, "one", "RS256")) == "ann"
    assert user(credentials, made(second, "two", "EdDSA")) == "ann"
    assert user(credentials, made(third, "three", "ES256")) == "ann"
    pem = first.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    confused = signed_with_anything(pem, claims("ann"), kid="one")
    wrong = {
        "another algorithm of the same key": made(first, "one", "PS256"),
        "the public key as a secret": confused,
        "the key of another kid": made(first, "two", "RS256"),
        "a key that isn't for signing": made(first, "not-for-signing", "RS256"),
        "no kid where there are several": made(first, None, "RS256"),
        "another audience": made(first, "one", "RS256", aud="another-service"),
        "no audience": signed(
            first, {k: v for k, v in claims("ann").items() if k != "aud"}, kid="one", algorithm="RS256"
        ),  # type: ignore[arg-type]
        "another issuer": made(first, "one", "RS256", iss="https://elsewhere.example"),
        "our issuer with their key": signed(first, own_claims("ann"), kid="one", algorithm="RS256"),  # type: ignore[arg-type]
        "a subject that is no name": made(first, "one", "RS256", sub="../ann"),
        "a subject that is no text": made(first, "one", "RS256", sub=["ann"]),
        "an end long ago": made(first, "one", "RS256", exp=1),
        "an end that is no time": made(first, "one", "RS256", exp="soon"),
        "much too long": made(first, "one", "RS256", more="x" * 9000),
    }
    assert {why for why, shown in wrong.items() if user(credentials, shown) is not None} == set()

    jwks(path, [entry(OKPAlgorithm, second.public_key(), kid="two")])  # rotated: the first is no more
    credentials.look()
    assert user(credentials, made(first, "one", "RS256")) is None
    assert user(credentials, made(second, "two", "EdDSA")) == "ann"
    assert user(credentials, made(second, None, "EdDSA")) == "ann", "no other key can be meant"


def signed_with_anything(secret: bytes, content: dict[str, Any], *, kid: str) -> str:
    """HS256 as an attacker does it: no library keeps them from using a public key."""

    def packed(part: bytes) -> str:
        return base64.urlsafe_b64encode(part).decode().rstrip("=")

    head = ".".join(packed(json.dumps(part).encode()) for part in ({"alg": "HS256", "kid": kid}, content))
    return f"{head}.{packed(hmac.digest(secret, head.encode(), 'sha256'))}"


def test_a_secret_of_the_companys_issuer_signs_without_a_kid(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"s" * 40 + b"\n")
    path.chmod(0o600)
    credentials = theirs(tmp_path, jwt_secret_file=str(path))
    assert user(credentials, signed(b"s" * 40, claims("ann"))) == "ann"
    assert user(credentials, signed(b"t" * 40, claims("ann"))) is None
    assert user(credentials, signed(b"s" * 40, own_claims("ann"))) is None
    own = token(tmp_path, "bob")["authorization"].removeprefix("Bearer ")
    credentials.look()
    assert user(credentials, own) == "bob", "the node's own tokens are taken beside them"


def test_a_token_known_to_be_good_still_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = token(tmp_path, "ann", 60)["authorization"].removeprefix("Bearer ")
    credentials = FileCredentials(tmp_path, Auth(mode="keys"), routers=1)
    assert user(credentials, shown) == "ann"
    late = jwts.now_us() + 61_000_000
    monkeypatch.setattr(jwts, "now_us", lambda: late)
    assert user(credentials, shown) is None


@pytest.mark.parametrize(
    ("content", "more"),
    [
        ("{", {}),
        ('{"keys": []}', {}),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}]}', {}),
        (None, {}),
        ("{}", {"issuer": ""}),
        ("{}", {"audience": ""}),
    ],
)
def test_an_issuer_that_can_not_be_known_keeps_a_router_from_starting(
    tmp_path: Path, content: str | None, more: dict[str, str]
) -> None:
    path = tmp_path / "jwks.json"
    if content is not None:
        path.write_text(content)
    auth = Auth(**{"mode": "keys", "jwks_file": str(path), **ISSUER, **more})  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        FileCredentials(tmp_path, auth, routers=1)
