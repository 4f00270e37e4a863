"""What a node can't be served with is found before anything is made or started."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli import main
from tests import certificates

ISSUER = {"POBOX_AUTH_MODE": "keys", "POBOX_AUTH_ISSUER": "i", "POBOX_AUTH_AUDIENCE": "a"}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"POBOX_TLS_CERTIFICATE": "certificate.pem"}, "[tls] key is empty: certificate and key go together"),
        ({"POBOX_TLS_KEY": "key.pem"}, "[tls] certificate is empty: certificate and key go together"),
        (
            {"POBOX_TLS_CERTIFICATE": "certificate.pem", "POBOX_TLS_KEY": "nope"},
            "[tls] key: nope: No such file or directory",
        ),
        (
            {"POBOX_TLS_CERTIFICATE": "nope", "POBOX_TLS_KEY": "key.pem"},
            "[tls] certificate: nope: No such file or directory",
        ),
        ({"POBOX_TLS_CERTIFICATE": "key.pem", "POBOX_TLS_KEY": "certificate.pem"}, "[tls] key.pem, certificate.pem: "),
        ({**ISSUER, "POBOX_AUTH_JWKS_FILE": "nope"}, "[auth] jwks_file: nope: No such file or directory"),
        ({**ISSUER, "POBOX_AUTH_JWKS_FILE": "key.pem"}, "[auth] jwks_file: key.pem: "),
        ({**ISSUER, "POBOX_AUTH_JWT_SECRET_FILE": "nope"}, "nope: No such file or directory"),
        ({**ISSUER, "POBOX_AUTH_JWKS_FILE": "nope", "POBOX_AUTH_ISSUER": ""}, "[auth] issuer and audience"),
        ({"POBOX_NODE_OPS_CHANNEL": "no/channel"}, "[node] ops_channel: 'no/channel'"),
        ({"POBOX_ROUTER_TRUSTED_PROXIES": "192.0.2.1"}, "[auth] mode = open serves this machine only"),
    ],
)
def test_it_is_one_sentence_and_nothing_is_made(
    settings: dict[str, str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(main, ["serve", "--port", "0"], env=settings)
    assert refused.exit_code == 2
    assert f"Error: {why}" in refused.output
    assert {path.name for path in tmp_path.iterdir()} == {"certificate.pem", "key.pem"}
