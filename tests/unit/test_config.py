"""`cluster.toml`: defaults, and every mistake at once with the path of its key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervision.capability import meets
from supervision.settings import ConfigInvalid
from tether.config import load, parse

ROOT = Path(__file__).parents[2]
SMALL = """
[[models]]
name = "echo"
engine = "echo"
[[workers]]
id = "w"
models = ["echo"]
"""


def problems(text: str, *, small: bool = True) -> dict[str, str]:
    """The mistakes in `text` by key path; each path may hold one only."""
    with pytest.raises(ConfigInvalid) as caught:
        parse(text + SMALL if small else text, folder=Path())
    found = {p.path: p.sentence for p in caught.value.problems}
    assert len(found) == len(caught.value.problems)
    return found


def test_the_annotated_example_is_valid_and_shows_the_defaults() -> None:
    config = load(ROOT / "cluster.toml")
    assert config.data_dir == ROOT / ".tether"
    text = (ROOT / "cluster.toml").read_text()
    uncommented = "\n".join(
        line.removeprefix("# ") if " = " in line and line.startswith("# ") else line
        for line in text.splitlines()
    )
    assert parse(uncommented, folder=ROOT) == config, "a commented default is not the default"


def test_a_small_file_is_enough() -> None:
    config = parse(SMALL, folder=Path("/somewhere"))
    assert config.models[0].ref == "echo@1"
    assert config.workers[0].ids == ("w",)
    assert config.data_dir == Path("/somewhere/.tether").resolve()


def test_several_workers_are_numbered() -> None:
    config = parse(SMALL + "count = 3", folder=Path())
    assert config.workers[0].ids == ("w-0", "w-1", "w-2")


def test_all_mistakes_are_found_at_once() -> None:
    found = problems(
        """
        nods = 1
        [http]
        prot = 1
        port = 70000
        default_deadline_s = 700.0
        max_body_bytes = 1073741824
        cors_origins = ["*", "example.org"]
        [limits]
        max_concurrency = "many"
        [stores]
        postgres = "mysql://x"
        [[models]]
        name = "a"
        engine = "transformer"
        [[models]]
        name = "b"
        engine = "transformers"
        [[workers]]
        id = "x"
        models = []
        [[workers]]
        slots = 0
        """,
        small=False,
    )
    assert set(found) == {
        "nods",
        "http.prot",
        "http.port",
        "http.default_deadline_s",
        "http.max_body_bytes",
        "http.body_budget_bytes",
        "http.cors_origins[1]",
        "limits.max_concurrency",
        "stores.postgres",
        "models[0].engine",
        "models[1].source",
        "workers[0].models",
        "workers[1].id",
        "workers[1].models",
        "workers[1].slots",
    }
    assert "'nodes'" in found["nods"]
    assert "'port'" in found["http.prot"]
    assert "70000" in found["http.port"]
    assert "'transformers'" in found["models[0].engine"]


@pytest.mark.parametrize(
    ("text", "path", "told"),
    [
        ("[[models]]\nname='echo'\nengine='echo'", "models[1].version", "models[0]"),
        ("[[models]]\nname='idle'\nengine='echo'", "models[0]", "no worker serves idle@1"),
        ("[[workers]]\nid='w'\nmodels=['echo']", "workers[1].id", "'w'"),
        ("[[workers]]\nid='v'\nmodels=['ecko']", "workers[0].models[0]", "'ecko'"),
        ("[[workers]]\nid='v'\nmodels=['echo','echo@1']", "workers[0].models[1]", "twice"),
        ("[[workers]]\nid='v'\nmodels=['echo','*']", "workers[0].models[1]", "'*' is all"),
        ("[[workers]]\nid='v'\nmodels=['echo']\npinned=['x']", "workers[0].pinned[0]", "'x' is"),
        (
            (
                "[[models]]\nname='big'\nengine='echo'\nmemory_mib=9\n[[workers]]\nid='v'\n"
                "models=['*']\npinned=['big']\nmodel_memory_mib=8"
            ),
            "workers[0].pinned",
            "big@1 need 9 MiB",
        ),
        ("[node]\nadmin_port=8080", "node.admin_port", "8080"),
        ("[node]\nmetrics=':99999'", "node.metrics", "':99999'"),
        ("[node]\nmetrics='a:99999'", "node.metrics", "65536"),
        ("[node]\nmetrics='a:8080'", "node.metrics", "http.port"),
        ("[http.tls]\ncertificate='a'", "http.tls.key", "required"),
        ("[http.tls]\ncertificate='a'\nkey='b'\nminimum='1.1'", "http.tls.minimum", "'1.2'"),
        ("[node]\nid='a b'", "node.id", "'a b'"),
        ("http = 3", "http", "table"),
    ],
)
def test_a_mistake_is_named(text: str, path: str, told: str) -> None:
    found = problems(text + "\n")
    assert set(found) == {path}
    assert told in found[path]


def test_a_name_is_all_its_versions() -> None:
    config = parse(SMALL + "[[models]]\nname='echo'\nversion='2'\nengine='echo'", folder=Path())
    refs = [[m.ref for m in config.matching(names)] for names in (("echo",), ("echo@2",), ("*",))]
    assert refs == [["echo@1", "echo@2"], ["echo@2"], ["echo@1", "echo@2"]]
    assert [m.ref for m in config.matching(("echo@2", "echo"))] == ["echo@2", "echo@1"]


CLUSTER = """
[node]
data_dir = "data/{node}"
identity_dir = "identity/{node}"
[http]
host = "{host}"
[stores]
postgres = "postgresql://u@db/t"
[[nodes]]
id = "n1"
host = "127.0.0.1"
leader = true
roles = ["door", "control"]
[[nodes]]
id = "n2"
host = "127.0.0.2"
admin_port = 1901
capabilities = { gpu_class = "a100", vram_gb = 80 }
[[nodes]]
id = "n3"
host = "::1"
ports = "2000-2999"
region = "far"
leader = true
"""


def test_every_node_reads_the_same_file_as_its_own() -> None:
    config = parse(CLUSTER + SMALL, folder=Path("/etc/tether"))
    two, three = config.at("n2"), config.at("n3")
    assert (two.node.id, two.node.admin_port, two.cluster.region) == ("n2", 1901, "local")
    assert two.data_dir == Path("/etc/tether/data/n2")
    assert two.identity_dir == Path("/etc/tether/identity/n2")
    assert two.http.host == "127.0.0.2"
    assert [m.id for m in two.region_members] == ["n1", "n2"]
    assert three.cluster.region == "far"
    assert [m.id for m in three.region_members] == ["n3"]
    assert [m.region for m in three.nodes] == ["local", "local", "far"]
    assert three.member is not None
    assert (three.member.place, three.member.listen) == ("[::1]:1900", "[::1]:2000-2999")


def test_control_nodes_alone_have_a_database() -> None:
    one, two = 'roles = ["door", "control"]', 'roles = ["worker"]\n'
    text = (CLUSTER + SMALL).replace("admin_port = 1901", f"admin_port = 1901\n{two}")
    config = parse(text, folder=Path())
    assert config.at("n1").stores.postgres == config.at("n3").stores.postgres != ""
    assert config.at("n2").stores.postgres == ""
    assert config.at("n2").has_role("worker") and not config.at("n2").has_role("control")
    without = parse(text.replace('postgres = "postgresql://u@db/t"', ""), folder=Path())
    assert without.at("n2").stores.postgres == ""
    for node in ("n1", "n3"):
        with pytest.raises(ConfigInvalid, match=f"node {node} has the role control.*DSN"):
            without.at(node)
    assert parse(SMALL, folder=Path()).has_role("control")
    doors = CLUSTER.replace(one, 'roles = ["door"]').replace("admin_port = 1901", two)
    doors = doors.replace('region = "far"', f'region = "far"\n{two}')
    assert problems(doors)["nodes"].startswith("no node has the role 'control'")


def test_which_node_is_asked_for_when_there_are_several(tmp_path: Path) -> None:
    config = parse(CLUSTER + SMALL, folder=Path())
    with pytest.raises(ConfigInvalid, match="n1, n2, n3 with --node"):
        config.at("")
    with pytest.raises(ConfigInvalid, match="no node 'n4'"):
        config.at("n4")
    alone = parse(SMALL, folder=Path())
    assert alone.at("") is alone
    with pytest.raises(ConfigInvalid, match="no node 'n2'"):
        alone.at("n2")
    file = tmp_path / "cluster.toml"
    file.write_text(CLUSTER + SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TETHER_NODE", "n3")
        assert load(file, "").node.id == "n3"
        assert load(file, "n2").node.id == "n2"


def test_what_a_worker_requires() -> None:
    has = {"gpu_class": "a100", "vram_gb": 80, "nvlink": True}
    assert meets(has, {"gpu_class": "a100", "vram_gb": 24, "nvlink": True})
    assert not meets(has, {"vram_gb": 81})
    assert not meets(has, {"gpu_class": "h100"})
    assert not meets(has, {"disk_gb": 1})
    assert not meets(has, {"nvlink": False})
    assert not meets(has, {"nvlink": 1})
    assert not meets(has, {"vram_gb": True})
    assert meets({}, {})


@pytest.mark.parametrize(
    ("changed", "path", "told"),
    [
        (('id = "n2"', 'id = "n1"'), "nodes[1].id", "nodes[0]"),
        (('"::1"', '"127.0.0.1"'), "nodes[2].admin_port", "nodes[0]"),
        (('"data/{node}"\n', '"d"\n'), None, ""),
        (('u@db/t"', 'u@db/t"\nkeep_jobs_days = 0.9'), "stores.keep_jobs_days", "idempotency"),
        (('u@db/t"', 'u@db/t"\n[answers]\nkeep_hours = 23.0'), "answers.keep_hours", "24 or more"),
        (('u@db/t"', 'u@db/t"\n[answers]\nkeep_hours = 721.0'), "answers.keep_hours", "720 or"),
        (('u@db/t"', 'u@db/t"\n[answers]\nkeep_hours = 0.0'), None, ""),
        (
            ('u@db/t"', 'u@db/t"\n[answers]\nanswer_kib = 2048\ntenant_mib = 1'),
            "answers.tenant_mib",
            "raise it",
        ),
        (('u@db/t"', 'u@db/t"\nkeep_ledger_days = 7'), "stores.keep_ledger_days", "30 or more"),
        (('u@db/t"', 'u@db/t"\nkeep_ledger_days = -1'), "stores.keep_ledger_days", ">= 0"),
        (("identity/{node}", ""), "node.identity_dir", "tether ca issue"),
        (('region = "far"\nleader = true', 'region = "far"'), "nodes[2].leader", "'far'"),
        (("2000-2999", "1900-2999"), "nodes[2].ports", "1900"),
        (("2000-2999", "2999-2000"), "nodes[2].ports", "rise"),
        (("vram_gb", "region"), "nodes[1].capabilities.region", "by itself"),
        (('["door", "control"]', '["dor"]'), "nodes[0].roles[0]", "dor"),
        (('["door", "control"]', "[]"), "nodes[0].roles", "length"),
        (('"door", "control"', '"gateway"'), "nodes[0].roles", '["door", "control"]'),
        (
            ('"door", "control"', '"gateway", "worker"'),
            "nodes[0].roles",
            'roles = ["door", "control", "worker"]',
        ),
    ],
)
def test_a_mistake_in_a_cluster_is_named(
    changed: tuple[str, str], path: str | None, told: str
) -> None:
    assert changed[0] in CLUSTER
    text = CLUSTER.replace(*changed)
    if path is None:
        parse(text + SMALL, folder=Path())
        return
    found = problems(text)
    assert set(found) == {path}
    assert told in found[path]


@pytest.mark.parametrize(
    ("more", "path", "told"),
    [
        ('node = "n4"', "workers[0].node", "n1, n2, n3"),
        ('node = "n1"', "workers[0].node", "role"),
        ("requires = { vram_gb = 100 }", "workers[0].requires", "capabilities"),
        ('node = "n2"\nrequires = { vram_gb = 1 }', "workers[0].requires", "remove one"),
    ],
)
def test_where_a_worker_is_to_run(more: str, path: str, told: str) -> None:
    found = problems(CLUSTER + SMALL + more, small=False)
    assert set(found) == {path}
    assert told in found[path]


def test_two_nodes_of_one_machine_share_no_directory() -> None:
    text = CLUSTER.replace('"127.0.0.2"', '"127.0.0.1"').replace("data/{node}", "data")
    assert set(problems(text)) == {"nodes[1].host"}


def test_one_table_where_a_list_is_meant() -> None:
    found = problems("[models]\nname='echo'\n[[workers]]\nid='w'\nmodels=['echo']", small=False)
    assert "[[models]]" in found["models"]


def test_nothing_listed() -> None:
    assert set(problems("", small=False)) == {"models", "workers"}


def test_no_toml_and_no_file(tmp_path: Path) -> None:
    assert "TOML" in problems("[http", small=False)[""]
    with pytest.raises(ConfigInvalid, match="--config"):
        load(tmp_path / "cluster.toml")
    (tmp_path / "latin.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load(tmp_path / "latin.toml")


@given(
    st.dictionaries(
        st.sampled_from(["id", "data_dir", "admin_port", "stop_deadline_s", "iid"]),
        st.one_of(st.integers(), st.text("ab/' ", max_size=8).map(lambda t: f'"{t}"')),
        max_size=4,
    )
)
def test_whatever_a_section_holds_ends_in_a_config_or_in_paths_of_it(
    node: dict[str, object],
) -> None:
    text = "[node]\n" + "\n".join(f"{key} = {value}" for key, value in node.items())
    paths: set[str] = set()
    try:
        parse(f"{text}\n{SMALL}", folder=Path())
    except ConfigInvalid as invalid:
        paths = {p.path for p in invalid.problems}
    assert paths <= {f"node.{key}" for key in node}
    assert ("node.iid" in paths) == ("iid" in node)


def test_the_example_of_a_cluster_is_valid() -> None:
    config = load(ROOT / "docs" / "cluster.example.toml")
    assert [m.id for m in config.nodes] == ["n1", "n2", "n3"]
    for member in config.nodes:
        at = config.at(member.id)
        assert at.http.host == member.host
        assert at.identity_dir == Path("/etc/tether/identity")


def test_a_bandwidth_that_nobody_can_borrow_at_is_none() -> None:
    for bandwidth in (1, (1 << 20) - 1):
        found = problems(f"[artifacts]\npeer_bandwidth = {bandwidth}\n")
        assert "write 1048576 or more, 0 for no limit" in found["artifacts.peer_bandwidth"]
    for bandwidth in (0, 1 << 20):
        made = parse(f"[artifacts]\npeer_bandwidth = {bandwidth}\n{SMALL}", folder=Path())
        assert made.artifacts.peer_bandwidth == bandwidth
        assert made.artifacts.peers
