"""Downloads over real HTTP from a fake hub, and from a mirror folder: announced, shared, resumed, verified."""

import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chiron.evaluation.benchmarks.loading import load
from chiron.evaluation.registry import benchmark_of
from tests.evaluation import published
from tests.support.command import Cli, Ended, chiron_process
from tests.support.hub import REVISION, Hub

HUATUO, MMMU = "FreedomIntelligence/Medical_Multimodal_Evaluation_Data", "MMMU/MMMU"
Fetch = Callable[..., Ended]


@pytest.fixture
def fetch(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    """Run ``chiron eval fetch`` without anybody's login."""
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def run(*names: object, data: str = "d", mirror: object = None, token: str = "", more: tuple[object, ...] = ()) -> Ended:
        monkeypatch.setenv("HF_TOKEN", token)
        place = ["--mirror", str(mirror)] if mirror is not None else []
        return cli(["eval", "fetch", *map(str, names), "--data", str(tmp_path / data), *place, *map(str, more)])

    return run


def huatuo(root: Path, count: int = 4) -> None:
    published.table1(root / HUATUO, count, without=("MMMU",))
    (root / HUATUO / "README.md").write_text("not needed")


def mmmu(root: Path) -> None:
    rows = [published.mmmu_row(f"test_Pharmacy_{n}", answer="?", image_1=published.image(n)) for n in range(3)]
    published.parquet(root / MMMU / "Pharmacy" / "test-00000-of-00001.parquet", rows)
    published.parquet(root / MMMU / "Art" / "test-00000-of-00001.parquet", rows)
    (root / MMMU / "answer_dict_test.json").write_text(json.dumps({row["id"]: {"ground_truth": "B"} for row in rows}))


def found(ended: Ended) -> list[dict[str, Any]]:
    downloads: list[dict[str, Any]] = json.loads(ended.stdout)
    return downloads


@pytest.mark.slow
def test_a_suite_is_fetched_into_one_folder_per_data_set_which_its_benchmarks_share(tmp_path: Path, fetch: Fetch) -> None:
    huatuo(tmp_path / "mirror")
    mmmu(tmp_path / "mirror")
    ended = fetch("table1", mirror=tmp_path / "mirror")
    assert ended.returncode == 0, ended.stderr
    shown = " ".join(ended.stdout.split())
    assert "huatuo_vqa_rad, huatuo_slake, huatuo_path_vqa, huatuo_pmc_vqa files 2 " in shown
    assert "those of its sources" in shown
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == [HUATUO.replace("/", "--"), "MMMU--MMMU"]
    assert not list((tmp_path / "d").rglob("README.md"))
    assert not list((tmp_path / "d").rglob("Art"))
    for name in ("huatuo_vqa_rad", "huatuo_slake", "huatuo_path_vqa", "huatuo_pmc_vqa"):
        assert len(load(benchmark_of(name), tmp_path / "d", tmp_path / "run").items) == 4
    questions = load(benchmark_of("mmmu_health_test"), tmp_path / "d", tmp_path / "run").items
    assert [getattr(item, "answer", "") for item in questions] == ["b, c"] * 3


def test_what_is_downloaded_is_announced_with_its_size_and_license_and_a_dry_run_stops_there(tmp_path: Path, fetch: Fetch) -> None:
    huatuo(tmp_path / "hub")
    with Hub(tmp_path / "hub", licenses={HUATUO: "cc-by-4.0"}) as hub:
        ended = fetch("huatuo_slake", mirror=hub.url, more=("--dry-run",))
        assert hub.served == []
    assert ended.returncode == 0, ended.stderr
    size = sum(path.stat().st_size for path in (tmp_path / "hub" / HUATUO).iterdir() if path.name != "README.md")
    shown = " ".join(ended.stdout.split())
    assert f"{HUATUO} for huatuo_slake files 2 ({size / 1000:.1f} kB), {size / 1000:.1f} kB to download" in shown
    assert "license those of its sources (its card: cc-by-4.0)" in shown
    assert "Nothing was downloaded." in shown
    assert not (tmp_path / "d").exists()


@pytest.mark.slow
def test_files_of_the_hub_are_verified_and_not_downloaded_again(tmp_path: Path, fetch: Fetch) -> None:
    huatuo(tmp_path / "hub")
    folder = tmp_path / "d" / HUATUO.replace("/", "--")
    with Hub(tmp_path / "hub") as hub:
        ended = fetch("huatuo_slake", "huatuo_vqa_rad", mirror=hub.url, more=("--json",))
        assert ended.returncode == 0, ended.stderr
        (first,) = found(ended)
        assert (first["revision"], first["problem"], len(hub.served)) == (REVISION, "", 2)
        assert [file["digest"].partition(":")[0] for file in first["files"]] == ["git", "sha256"]
        (second,) = found(fetch("huatuo_slake", "huatuo_vqa_rad", mirror=hub.url, more=("--json",)))
        assert ([file["needed"] for file in second["files"]], len(hub.served)) == ([False, False], 2)
        (folder / "images.zip").write_bytes((folder / "images.zip").read_bytes()[::-1])
        assert fetch("huatuo_slake", mirror=hub.url).returncode == 0
        assert hub.served[2:] == [f"{HUATUO}/images.zip"]
    assert (folder / "images.zip").read_bytes() == (tmp_path / "hub" / HUATUO / "images.zip").read_bytes()


@pytest.mark.slow
def test_a_broken_download_is_continued_where_it_ended(tmp_path: Path, fetch: Fetch) -> None:
    huatuo(tmp_path / "hub")
    with zipfile.ZipFile(tmp_path / "hub" / HUATUO / "images.zip", "a") as archive:
        archive.writestr("more", random.Random(0).randbytes(12_000_000))  # received in pieces of 10 MiB
    with Hub(tmp_path / "hub", cut_after=11_000_000) as hub:
        broken = fetch("huatuo_slake", mirror=hub.url)
        assert broken.returncode == 3
        assert "10.5 MB of 12.0 MB are kept: run the same command again to resume" in broken.stderr.splitlines()[-1]
        hub.cut_after = None
        assert fetch("huatuo_slake", mirror=hub.url).returncode == 0
        assert "bytes=10485760-" in hub.ranges
    assert len(load(benchmark_of("huatuo_slake"), tmp_path / "d", tmp_path / "run").items) == 4
    assert not list((tmp_path / "d").rglob("*.part"))


@pytest.mark.parametrize("path", ["images.zip", "medical_multimodel_evaluation_data.json"])
def test_a_file_with_another_hash_is_removed(tmp_path: Path, path: str, fetch: Fetch) -> None:
    huatuo(tmp_path / "hub")
    with Hub(tmp_path / "hub", lie={path}) as hub:
        ended = fetch("huatuo_slake", mirror=hub.url)
    assert ended.returncode == 2
    assert f"{path} does not have the hash of its source" in ended.stderr
    assert not list((tmp_path / "d").rglob(f"*{path}*"))


def test_a_data_set_that_needs_a_login_says_how_and_the_others_are_fetched(tmp_path: Path, fetch: Fetch) -> None:
    huatuo(tmp_path / "hub")
    published.parquet(tmp_path / "hub" / "flaviagiammarino" / "vqa-rad" / "data" / "test-0.parquet", [{"image": published.image()}])
    with Hub(tmp_path / "hub", gated=frozenset({HUATUO})) as hub:
        ended = fetch("huatuo_slake", "vqa_rad", mirror=hub.url)
        assert ended.returncode == 2
        assert f"accept its conditions at {hub.url}/datasets/{HUATUO}, then run 'hf auth login' or set HF_TOKEN" in ended.stderr
        assert hub.served == ["flaviagiammarino/vqa-rad/data/test-0.parquet"]
        refused = fetch("huatuo_slake", mirror=hub.url, token=hub.token[:-1])
        assert (refused.returncode, "accept its conditions" in refused.stderr) == (2, True)
        assert fetch("huatuo_slake", mirror=hub.url, token=hub.token).returncode == 0


OWN = """
from chiron.evaluation.benchmarks.benchmark import Benchmark, WebFile
from chiron.evaluation.items import Item

BENCHMARKS = (
    Benchmark(
        name="own", title="own", size="1", n=1, license="CC0-1.0", files=("q.jsonl",), columns=("q",), needs_image=False,
        read=lambda row: Item(row.name, row.text("q"), "a"), web_files=(WebFile("{url}/web/q.jsonl", "q.jsonl", "{digest}"),),
    ),
)
"""


def test_files_from_elsewhere_are_fetched_without_the_hubs_token(tmp_path: Path, fetch: Fetch) -> None:
    published.jsonl(tmp_path / "hub" / "web" / "q.jsonl", [{"q": "What?"}])
    with Hub(tmp_path / "hub") as hub:
        (tmp_path / "own.py").write_text(OWN.format(url=hub.url, digest=""))
        (tmp_path / "bad.py").write_text(OWN.format(url=hub.url, digest="git:00"))
        ended = fetch("own", token=hub.token, more=("--benchmark-file", tmp_path / "own.py"))
        assert ended.returncode == 0, ended.stderr
        assert set(hub.tokens) == {None}
        bad = fetch("own", data="e", more=("--benchmark-file", tmp_path / "bad.py"))
        assert "does not have the hash of its source (git:00)" in bad.stderr
    assert (tmp_path / "d" / "own" / "q.jsonl").is_file()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("table3",), "unknown benchmark or suite 'table3'; did you mean 'table"),
        (("slake", "--mirror", "nowhere"), "mirror folder nowhere does not exist"),
        (("mmrp_text",), "mmrp_text: it cannot be fetched: give --data DIR with the folder that 'chiron build release' wrote"),
        (("slake", "--mirror", "http://127.0.0.1:9"), "BoKelvin/SLAKE cannot be reached at http://127.0.0.1:9 ("),
    ],
)
def test_what_cannot_be_fetched_is_one_line(tmp_path: Path, more: tuple[str, ...], words: str, fetch: Fetch) -> None:
    ended = fetch(*more)
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert words in line


def test_without_a_network_it_is_one_line(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ended = fetch("slake")
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert "not fetched: BoKelvin/SLAKE cannot be reached at https://huggingface.co (OfflineModeIsEnabled" in line
    assert "unknown" in ended.stdout
    assert "without 1 data sets that cannot be fetched" in ended.stdout


def test_a_fetched_folder_is_a_mirror_and_its_hashes_are_checked(tmp_path: Path, fetch: Fetch) -> None:
    huatuo(tmp_path / "hub")
    with Hub(tmp_path / "hub") as hub:
        assert fetch("huatuo_slake", data="a", mirror=hub.url).returncode == 0
    assert fetch("huatuo_slake", data="b", mirror=tmp_path / "a").returncode == 0
    archive = tmp_path / "a" / HUATUO.replace("/", "--") / "images.zip"
    archive.write_bytes(archive.read_bytes()[::-1])
    ended = fetch("huatuo_slake", data="c", mirror=tmp_path / "a")
    assert (ended.returncode, "does not have the hash of its source (sha256:" in ended.stderr) == (2, True)


def test_a_hub_cannot_write_outside_the_folder(tmp_path: Path, fetch: Fetch) -> None:
    published.parquet(tmp_path / "hub" / "flaviagiammarino" / "vqa-rad" / "readme.parquet", [{"image": published.image()}])
    with Hub(tmp_path / "hub", also=("../test-evil.parquet",)) as hub:
        ended = fetch("vqa_rad", mirror=hub.url)
    assert ended.returncode == 2
    assert "its source has no file test-*.parquet for vqa_rad" in ended.stderr
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.slow
def test_the_hubs_own_variables_are_followed(tmp_path: Path) -> None:
    huatuo(tmp_path / "hub")
    with Hub(tmp_path / "hub") as hub:
        command = ("eval", "fetch", "huatuo_slake", "--data", tmp_path / "d")
        ended = chiron_process(*command, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"), HF_TOKEN="", HF_HUB_OFFLINE="0")
        assert ended.returncode == 0, ended.stderr
        assert len(hub.served) == 2
    assert ended.stderr.splitlines() == [f"{tmp_path / 'd' / HUATUO.replace('/', '--')}: 2 files, verified"]
