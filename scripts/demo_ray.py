"""``make demo-ray``: search synthetic cases on a Ray cluster of two nodes, lose one node on the way, and compare with one process."""

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

import chiron
from chiron.errors import InputError
from chiron.extras import need
from chiron.jobs.engine import EngineOptions

FILES = ("paths.jsonl", "rejected.jsonl")


def command(*arguments: object) -> None:
    """Run ``chiron`` with these arguments."""
    subprocess.run([sys.executable, "-m", "chiron", *map(str, arguments)], check=True)


def seconds_of(what: str, began: float) -> None:
    print(f"{what}: {time.monotonic() - began:.1f} s", flush=True)


def calls_of(run: Path) -> int:
    return sum(spending.calls for spending in chiron.read_status(run).spending)


def lose_node(cluster: object, node: object, storage: Path) -> None:
    """Remove a node as soon as a part that is in progress has a copy."""
    while not list(storage.glob("*.sqlite")):
        time.sleep(0.05)
    print("removing the second node with its worker", flush=True)
    cluster.remove_node(node, allow_graceful=False)  # type: ignore[attr-defined]


def search_on_ray(cases: Path, config: Path, run: Path) -> chiron.RunSummary:
    """Search on two nodes, one of which is lost."""
    need("ray", "make demo-ray", "ray")
    from ray.cluster_utils import Cluster

    storage = run.parent / "copies"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        node = cluster.add_node(num_cpus=2)
        print(f"Ray cluster of two nodes at {cluster.address}", flush=True)
        options = EngineOptions(address=cluster.address, workers=2, storage=str(storage), copy_every=0.2)
        losing = threading.Thread(target=lose_node, args=(cluster, node, storage), daemon=True)
        losing.start()
        summary = chiron.run_search(cases, chiron.load_config(config), run, engine="ray", engine_options=options)
        losing.join(timeout=60)
        return summary
    finally:
        cluster.shutdown()


def main() -> None:
    """Make cases, search them twice, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("demo-ray"), help="folder for cases and runs")
    parser.add_argument("--cases", type=int, default=60)
    options = parser.parse_args()
    folder: Path = options.dir.resolve()
    if folder.exists():
        raise InputError(f"{folder} exists: move it away, or choose another --dir")
    command("sample", folder / "cases", "--count", options.cases)
    cases, config = folder / "cases" / "cases.jsonl", folder / "offline.yaml"
    command("init", "offline", "--out", config)
    began = time.monotonic()
    command("search", cases, "--config", config, "--run", folder / "one")
    seconds_of("one process", began)
    began = time.monotonic()
    summary = search_on_ray(cases, config, folder / "ray")
    seconds_of("two nodes, with their start", began)
    lost = [note for note in summary.notes if "a worker was lost" in note]
    print("\n".join(lost) or "no worker was lost: the search ended before it could be")
    same = all((folder / "one" / name).read_bytes() == (folder / "ray" / name).read_bytes() for name in FILES)
    print(f"calls in the ledger: one process {calls_of(folder / 'one')}, Ray {calls_of(folder / 'ray')}")
    print(f"{summary.retained} paths; {' and '.join(FILES)} {'are equal byte for byte' if same else 'DIFFER'}")
    sys.exit(0 if same and lost and not summary.pending else 1)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
