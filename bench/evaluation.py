"""Items a second of an evaluation against a simulated endpoint, and what it takes to load, read and score 10,000 items."""

import base64
import compileall
import hashlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from PIL import Image

import chiron
from bench.simulated import simulated, stats
from bench.table import heading, table
from chiron.cases.images import ImageFolder
from chiron.client.call import ImagePart
from chiron.client.images import PictureStore, encode_data_url
from tests.support.cases import write_cases

SECONDS, PLACES = 0.2, 64
PACED = (6_000, 24_000)
MANY = 10_000
OWN = 1_000


def write_bundle(folder: Path, count: int, *, images: int) -> Path:
    """A bundle of choices, several to an image."""
    (folder / "images").mkdir(parents=True)
    for number in range(images):
        Image.effect_noise((216, 216), 80).save(folder / "images" / f"{number}.png")
    options = ["Hemorrhage", "Acute infarct", "Abscess formation", "Chronic infarct"]
    rows = [
        {
            "image": [f"images/{n % images}.png"],
            "question": f"What is apparent in image {n}?",
            "options": options,
            "answer": options[n % 4],
            "dataset": "OmniMedVQA",
            "subset": "CT",
        }
        for n in range(count)
    ]
    (folder / "medical_multimodel_evaluation_data.json").write_text(json.dumps(rows))
    return folder


def evaluate(data: Path, run: Path, *more: str) -> tuple[float, float]:
    """Seconds of a whole command, and of CPU in it."""
    command = [sys.executable, "-m", "chiron", "eval", "--benchmarks", "huatuo_omnimed", "--data", str(data), "--run", str(run), *more]
    began, before = time.perf_counter(), _cpu()
    subprocess.run(command, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began, _cpu() - before


def _cpu() -> float:
    """Seconds of CPU of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def pace(folder: Path) -> None:
    """How near it comes to places / latency; twice, since starting and writing take their seconds whatever the number."""
    rows = []
    for count in PACED:
        data = write_bundle(folder / f"pace-{count}", count, images=500)
        run = folder / f"run-{count}"
        with simulated(write_cases(folder / f"c-{count}", 1), seconds={"intern": SECONDS}) as url:
            model = {"provider": "openai", "base_url": url, "model": "intern", "concurrency": PLACES}
            config = folder / "c.yaml"
            config.write_text(yaml.safe_dump({"models": {"m": model}}))
            took, cpu = evaluate(data, run, "--model", "m", "--config", str(config))
            seen = stats(url)
            again, _ = evaluate(data, run, "--model", "m", "--config", str(config))
            more = stats(url)["requests"] - seen["requests"]
        share = seen["busy_seconds"]["intern"] / took / PLACES
        rows.append([count, took, count / took, PLACES / SECONDS, share, 1000 * cpu / count, again, more])
    heads = ["items", "seconds", "items/s", "most possible", "share of allowed places in use", "CPU ms an item", "again, seconds"]
    table([*heads, "asked again"], rows)


def own_images(folder: Path) -> None:
    """CPU of an item whose image is its own, and the parts of it that an image takes."""
    rows = []
    for count, images in ((1, 1), (OWN, 12), (OWN, OWN)):
        data = write_bundle(folder / f"own-{images}", count, images=images)
        with simulated(write_cases(folder / f"c-own-{images}", 1), seconds={"intern": SECONDS}) as url:
            config = folder / "own.yaml"
            model = {"provider": "openai", "base_url": url, "model": "intern", "concurrency": PLACES}
            config.write_text(yaml.safe_dump({"models": {"m": model}}))
            took, cpu = evaluate(data, folder / f"run-own-{images}", "--model", "m", "--config", str(config))
            span = stats(url)["span"]
        rows.append([count, images, count / took, count / span, 1000 * cpu / count])
    start = rows[0][-1]  # of one item: the command's start
    print()
    table(
        ["items", "images", "items/s", "between first request and last answer", "CPU ms an item", "without the command's start"],
        [[*row, (row[-1] * row[0] - start) / (row[0] - 1)] for row in rows[1:]],
    )
    print(f"\nThe command's start, with one item: {start:.0f} ms of CPU")
    root = folder / f"own-{OWN}" / "images"
    files = {path.name: path.read_bytes() for path in sorted(root.iterdir())}
    check, store, side = ImageFolder(root).check, PictureStore(), 1536
    hashes = {name: check(name, store.keep).sha256 for name in files}
    parts: dict[str, Callable[[str], object]] = {
        "find, read, hash and check (once)": lambda name: check(name, store.keep),
        "the same for another format: decode": check,
        "of it, decode": lambda name: Image.open(io.BytesIO(files[name])).load(),
        "encode the checked file for the call": lambda name: store.ready(ImagePart(hashes[name], side)),
        "without the checked file: read, hash and encode": lambda name: encode_data_url(root / name, side, sha256=hashes[name]),
        "of it, base64": lambda name: base64.b64encode(files[name]),
        "read a file": lambda name: (root / name).read_bytes(),
        "hash a file": lambda name: hashlib.sha256(files[name]).hexdigest(),
    }
    print()
    table(["part of an image", "CPU ms"], [[name, _milliseconds(part, list(files))] for name, part in parts.items()])


def _milliseconds(part: Callable[[str], object], names: list[str]) -> float:
    began = time.process_time()
    for name in names:
        part(name)
    return 1000 * (time.process_time() - began) / len(names)


def many(folder: Path) -> None:
    """Load, ask an embedded model, read and score; then the same from the ledger."""
    data = write_bundle(folder / "many", MANY, images=2000)
    first, _ = evaluate(data, folder / "many-run", "--model", "offline:match/normalised")
    second, cpu = evaluate(data, folder / "many-run", "--model", "offline:match/normalised")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print()
    table(
        ["items", "first run, seconds", "from the ledger, seconds (aim: 60)", "of CPU", "peak memory of any process here, MiB (aim: 1024)"],
        [[MANY, first, second, cpu, peak]],
    )


def main() -> None:
    """Print all tables."""
    heading("Evaluation")
    # As where the package is installed. Without it, each command compiles our modules where Python may not write them.
    compileall.compile_dir(Path(chiron.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory() as name:
        pace(Path(name))
        own_images(Path(name))
        many(Path(name))


if __name__ == "__main__":
    main()
