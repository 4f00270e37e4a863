"""The store that backups go to: what is refused before it is asked, and how its errors read."""

from __future__ import annotations

from pathlib import Path

import obstore
import pytest

from node.config import Backup
from node.errors import ConfigError
from shard.offsite_store import plainly, store

REFUSED = """Generic S3 error: Error performing list request: Error performing GET http://s3.test/b?list-type=2 in 8ms \
- Server returned non-2xx status code: 403 Forbidden: <?xml version="1.0" encoding="UTF-8"?>
<Error><Code>InvalidAccessKeyId</Code>
  <Message>The key does not exist</Message></Error>

Debug source:
Generic {
    store: "S3",
    body: Some("<Error><Code>InvalidAccessKeyId</Code>"),
}"""
NO_TLS = """Generic S3 error: Error performing GET https://s3.test/b in 8s - HTTP error: error sending request

Debug source:
Generic {
    store: "S3",
    source: InvalidMessage(InvalidContentType),
}"""
NO_NAME = """Generic S3 error: Error performing PUT https://s3.test/b/x in 8s, after 10 retries, max_retries: 10, \
retry_timeout: 180s  - HTTP error: error sending request

Debug source:
Generic {
    store: "S3",
    source: ConnectError("dns error", Custom { error: "failed to lookup \\"s3.test\\"" }),
}"""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (REFUSED, "GET http://s3.test/b: 403 Forbidden: InvalidAccessKeyId: The key does not exist"),
        (NO_TLS, "GET https://s3.test/b: HTTP error: error sending request"),
        (NO_NAME, 'PUT https://s3.test/b/x: HTTP error: error sending request: failed to lookup \\"s3.test\\"'),
    ],
)
def test_an_error_of_the_store_is_one_sentence_with_its_cause(error: str, sentence: str) -> None:
    assert plainly(Exception(error)) == f"the store can't be used: {sentence}"


def test_other_errors_keep_their_words_on_one_line() -> None:
    assert plainly(OSError(28, "No space left on device", "a\nb")) == "[Errno 28] No space left on device: 'a\\nb'"
    assert plainly(FileNotFoundError("Object at location a not found\n\nDebug source:\nNotFound {}")) == (
        "Object at location a not found"
    )


def credentials(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "credentials"
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def test_a_store_that_nobody_answers_for_says_so(tmp_path: Path) -> None:
    path = credentials(tmp_path, "AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret-secret")
    away = store(Backup(store="s3://bucket/x", endpoint="http://127.0.0.1:9", credentials=path))
    with pytest.raises(obstore.exceptions.BaseError) as met:
        obstore.put(away, "a", b"x")
    said = plainly(met.value)
    assert said.startswith("the store can't be used: PUT http://127.0.0.1:9/bucket/x/a: ")
    assert said.endswith(": Connection refused")
    assert "secret-secret" not in said


@pytest.mark.parametrize(
    ("lines", "missing"),
    [
        ([], "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (["AWS_ACCESS_KEY_ID=key"], "AWS_SECRET_ACCESS_KEY"),
        (["AWS_ACCESS_KEY_ID = ", "AWS_SECRET_ACCESS_KEY=secret"], "AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_file_without_both_keys_is_refused_whatever_the_environment_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], missing: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(ConfigError, match=f"lacks {missing}$"):
        store(Backup(store="s3://bucket/x", credentials=credentials(tmp_path, *lines)))
