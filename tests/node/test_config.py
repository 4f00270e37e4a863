from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import config
from node.config import Config
from node.errors import ConfigError


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pobox.toml"
    path.write_text(text)
    return path


def test_defaults_hold_without_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.load(environ={}) == Config()


def test_command_line_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = _file(tmp_path, "[node]\nshards = 3\nport = 1000\nrouters = 2\n")
    loaded = config.load(
        file, {"POBOX_NODE_PORT": "2000", "POBOX_NODE_ROUTERS": "4"}, {"node": {"routers": 5, "host": None}}
    )
    assert (loaded.node.shards, loaded.node.port, loaded.node.routers) == (3, 2000, 5)
    assert loaded.node.host == "127.0.0.1"


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = _file(tmp_path, "[shard]\npostmen = 7\n")
    assert config.load(environ={"POBOX_CONFIG": str(file)}).shard.postmen == 7


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[nodes]\nshards = 1\n", "nodes"),
        ("[node]\nshard = 1\n", "shard"),
        ("shards = 1\n", "shards"),
        ("node = 1\n", "node"),
        ("[node]\nshards = 0\n", "shards"),
        ('[node]\nport = "many"\n', "port"),
        ('[auth]\nmode = "none"\n', "mode"),
        ("[node\n", "pobox.toml"),
    ],
)
def test_what_is_not_known_or_not_allowed_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config.load(_file(tmp_path, text), {})


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent"):
        config.load(tmp_path / "absent.toml", {})


def test_an_unknown_environment_variable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="POBOX_NODE_SHARD"):
        config.load(_file(tmp_path, ""), {"POBOX_NODE_SHARD": "1"})


def test_a_wrong_value_in_the_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="port"):
        config.load(_file(tmp_path, ""), {"POBOX_NODE_PORT": "70000"})


def test_a_secret_that_is_named_nowhere_is_the_one_that_the_unit_was_handed(tmp_path: Path) -> None:
    handed = tmp_path / "credentials"
    handed.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(handed), "POBOX_TLS_CERTIFICATE": ""}
    assert config.load(_file(tmp_path, ""), environ).tls == config.Tls()
    for name in ("pobox.tls-certificate", "pobox.tls-key", "pobox.store"):
        (handed / name).touch()
    made = config.load(_file(tmp_path, '[backup]\ncredentials = "/elsewhere"\n'), environ)
    assert made.tls.certificate == str(handed / "pobox.tls-certificate")
    assert made.tls.key == str(handed / "pobox.tls-key")
    assert made.backup.credentials == "/elsewhere"
    assert config.load(_file(tmp_path, ""), {}).tls == config.Tls()


def _values(kind: object) -> st.SearchStrategy[object]:
    return {
        bool: st.booleans(),
        int: st.integers(1, 10),
        float: st.floats(0.001, 1),
        str: st.text("abc/.", min_size=1),
    }[kind]  # type: ignore[index]


_OF_A_FORM = {
    "subject": "mailto:a@b",
    "content": "text",
    "webhook": "http://a/{userId}",
    "webhook_format": "ntfy",
    "at": "04:20",
}
"""fields that don't take any text"""


@given(st.data())
def test_a_child_loads_from_the_environment_what_its_supervisor_had(data: st.DataObject) -> None:
    sections = {}
    for name in Config.__struct_fields__:
        section = getattr(Config(), name)
        drawn = {
            field: _OF_A_FORM.get(field) or data.draw(_values(type(getattr(section, field))))
            for field in section.__struct_fields__
            if name != "auth"
        }
        sections[name] = msgspec.convert({**msgspec.structs.asdict(section), **drawn}, type(section))
    made = Config(**sections)
    assert config.load(environ={**config.environment(made), "POBOX_CONFIG": "/dev/null"}) == made
