"""docs/operations.md, the dashboard and the rules name what is exported, and nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import parser

from node import config, ops
from node.placement import Placement
from router.audit import Audit
from router.exposition import exposition
from router.links import Links
from router.metrics import Metrics
from router.processes import Process
from shard.alerts import RULES
from tests.shard.running import Running, laid_out

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "operations.md"
DASHBOARD = ROOT / "docs" / "grafana.json"
ALERTS = ROOT / "systemd" / "pobox-alerts.rules.yml"
_ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) \| (.*) \|$", re.MULTILINE)
_NAME = re.compile(r"\b(?:pobox|process)_[a-z_]+\b")
_PARTS = ("_bucket", "_count", "_sum")


@pytest.fixture(scope="module")
def exported() -> dict[str, ops.Family]:
    """Every family that a shard, a router and the page have."""

    async def go() -> dict[str, ops.Family]:
        with laid_out() as data:
            async with Running(data, backup=config.Backup(store="file:///elsewhere")) as running:
                made = Metrics(Links(data, Placement(version=1, shards=1), timeout_s=1))
                made.audit = Audit(data, 0, config.Audit())
                router = made.ask()
                return {f.name: f for f in [*running.shard.metrics.families(), *router.families]}

    families = asyncio.run(go())
    up = ops.Family("pobox_up", "gauge", "Whether the process answers", [])
    return families | {up.name: up}


def names_in(text: str) -> set[str]:
    """The metrics that an expression asks for, without the parts of a histogram."""
    return {re.sub("|".join(f"{part}$" for part in _PARTS), "", name) for name in _NAME.findall(text)}


def test_the_reference_holds_every_metric_with_its_kind_labels_and_meaning(exported: dict[str, ops.Family]) -> None:
    rows = {name: (kind, meaning) for name, kind, _labels, meaning in _ROW.findall(DOCUMENT.read_text())}
    assert rows == {family.name: (family.kind, family.help) for family in exported.values()}
    for name, _kind, labels, _meaning in _ROW.findall(DOCUMENT.read_text()):
        for sample in exported[name].samples:
            assert set(re.findall(r"`(\w+)`", labels)) == set(sample.labels) - {"le"}, name


def test_the_reference_holds_every_alert_and_its_threshold() -> None:
    text = DOCUMENT.read_text()
    for rule in RULES:
        (row,) = re.findall(rf"^\| `{rule.name}` \|.*$", text, re.MULTILINE)
        begins, ends = rule.threshold, rule.ends_at
        assert re.search(rf"over ({begins:g} s|{begins:.0%}|{begins / 3_600:g} h for 1 h|{begins:g} \|)", row), row
        assert re.search(rf"\| ({ends:g} s|{100 * ends:g}%|{ends / 3_600:g} h|{ends:g}) \|", row), row
        assert f"### {rule.name}\n" in text
    for name in re.findall(r"- alert: (\w+)", ALERTS.read_text()):
        assert f"`{name}`" in text


def test_dashboard_and_rules_ask_only_for_what_is_exported(exported: dict[str, ops.Family]) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert len(expressions) > 20
    rules = "\n".join(line for line in ALERTS.read_text().splitlines() if "description" not in line)
    assert names_in("\n".join(expressions)) - set(exported) == set()
    assert names_in(rules) - set(exported) == set()
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_dashboard_shows_what_goes_wrong_slowly_and_no_panel_lies_on_another() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = names_in("\n".join(target["expr"] for panel in panels for target in panel.get("targets", [])))
    assert shown >= {
        "pobox_tail_letters",
        "pobox_deliveries_parked",
        "pobox_dead_letters",
        "pobox_volume_breaker",
        "pobox_backup_whole_seconds",
        "pobox_offsite_whole_seconds",
        "pobox_audit_fails",
        "pobox_audit_left_out_total",
        "pobox_disk_free_bytes",
        "pobox_disk_reserve_bytes",
    }
    cells = [
        (place["x"] + x, place["y"] + y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["w"])
        for y in range(place["h"])
    ]
    assert len(cells) == len(set(cells))


def test_what_is_exported_is_what_prometheus_reads(exported: dict[str, ops.Family]) -> None:
    shard = Process("shard", "0", Path())
    text = exposition([(shard, ops.Metrics(list(exported.values()), []))]).decode()
    read = {sample.name for family in parser.text_string_to_metric_families(text) for sample in family.samples}
    assert {s.name for family in exported.values() for s in family.samples} <= read
    for family in exported.values():
        assert f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n" in text
        assert re.fullmatch(r"[a-z_]+", family.name)
        assert (family.kind == "counter") == family.name.endswith("_total")


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is missing; it comes with Debian's package prometheus")
    return found


def test_promtool_finds_the_rules_and_the_text_in_order(promtool: str, exported: dict[str, ops.Family]) -> None:
    checked = subprocess.run([promtool, "check", "rules", ALERTS], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    text = exposition([(Process("shard", "0", Path()), ops.Metrics(list(exported.values()), []))])
    linted = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert linted.returncode == 0, linted.stderr.decode()


_CASES = f"""
rule_files: [{ALERTS}]
evaluation_interval: 5s
tests:
  - interval: 5s
    input_series:
      - {{series: 'pobox_up{{shard="0"}}', values: '1x60'}}
      - {{series: 'pobox_up{{shard="1"}}', values: '1x6 0x54'}}
      - {{series: 'pobox_waiting{{shard="0"}}', values: '85x60'}}
      - {{series: 'pobox_waiting_max{{shard="0"}}', values: '100x60'}}
      - {{series: 'pobox_waiting{{shard="1"}}', values: '75x60'}}
      - {{series: 'pobox_waiting_max{{shard="1"}}', values: '100x60'}}
      - {{series: 'pobox_memory_used_bytes{{shard="0"}}', values: '95x60'}}
      - {{series: 'pobox_memory_limit_bytes{{shard="0"}}', values: '100x60'}}
      - {{series: 'pobox_deliveries_stored_total{{shard="0"}}', values: '0+90x60'}}
      - {{series: 'pobox_deliveries_put_off_total{{shard="0"}}', values: '0+10x60'}}
      - {{series: 'pobox_deliveries_stored_total{{shard="1"}}', values: '0+99x60'}}
      - {{series: 'pobox_deliveries_put_off_total{{shard="1"}}', values: '0+1x60'}}
      - {{series: 'pobox_deliveries_given_up_total{{shard="0",reason="busy"}}', values: '0x60'}}
      - {{series: 'pobox_deliveries_given_up_total{{shard="1",reason="busy"}}', values: '0x20 1x40'}}
      - {{series: 'pobox_volume_breaker{{shard="0",volume="8:1"}}', values: '0x60'}}
      - {{series: 'pobox_volume_breaker{{shard="1",volume="8:1"}}', values: '0x20 2x40'}}
      - {{series: 'pobox_mailboxes_damaged_total{{shard="0"}}', values: '0x20 1x40'}}
      - {{series: 'pobox_mailbox_wait_seconds_count{{shard="1"}}', values: '0+2x60'}}
      - {{series: 'pobox_mailbox_wait_seconds_bucket{{shard="1",le="1.0"}}', values: '0+1x60'}}
      - {{series: 'pobox_mailbox_wait_seconds_count{{shard="0"}}', values: '0+2x60'}}
      - {{series: 'pobox_mailbox_wait_seconds_bucket{{shard="0",le="1.0"}}', values: '0+2x60'}}
      - {{series: 'pobox_disk_free_bytes{{shard="0"}}', values: '100x60'}}
      - {{series: 'pobox_disk_reserve_bytes{{shard="0"}}', values: '100x60'}}
      - {{series: 'pobox_alert_active{{shard="0",alert="disk_full"}}', values: '1x60'}}
      - {{series: 'pobox_disk_free_bytes{{shard="1"}}', values: '130x60'}}
      - {{series: 'pobox_disk_reserve_bytes{{shard="1"}}', values: '100x60'}}
    promql_expr_test:
"""
_DAYS = """
  - interval: 5m
    input_series:
      - {series: 'pobox_alert_reading{shard="0",alert="backup_old"}', values: '130000+300x30'}
      - {series: 'pobox_alert_reading{shard="1",alert="backup_old"}', values: '120000+300x30'}
      - {series: 'pobox_alert_reading{shard="0",alert="offsite_old"}', values: '130000+300x30'}
      - {series: 'pobox_alert_reading{shard="1",alert="offsite_old"}', values: '0x30'}
    promql_expr_test:
"""


def test_the_rules_fire_when_they_should_and_only_then(promtool: str, tmp_path: Path) -> None:
    fires = {
        "PoboxProcessSilent": "1",
        "PoboxLanesFull": "0",
        "PoboxMemoryShort": "0",
        "PoboxDeliveriesFail": "0",
        "PoboxDeadLetters": "1",
        "PoboxVolumeDown": "1",
        "PoboxMailboxDamaged": "0",
        "PoboxLockWait": "1",
        "PoboxDiskFull": "0",
        "PoboxDiskLow": "0",
    }
    cases = tmp_path / "cases.yml"
    after_hours = {"PoboxBackupOld": "0", "PoboxOffsiteOld": "0"}
    cases.write_text(_CASES + _expected(fires, "4m") + _DAYS + _expected({}, "50m") + _expected(after_hours, "70m"))
    tested = subprocess.run([promtool, "test", "rules", cases], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def _expected(fires: dict[str, str], at: str) -> str:
    """At ``at`` these alerts fire, each of one shard, and no others."""
    samples = ", ".join(
        f'{{labels: \'{{alertname="{name}", shard="{shard}"}}\', value: 1}}' for name, shard in fires.items()
    )
    return f"""
      - expr: count by (alertname, shard) (ALERTS{{alertstate="firing"}})
        eval_time: {at}
        exp_samples: [{samples}]"""
