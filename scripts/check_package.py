"""Check what `make package` built: the contents of wheel and sdist, and that the wheel runs in a fresh environment."""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hatch_build import IMAGE, LINK

ROOT = Path(__file__).parents[1]
NEEDED = ("README.md", "LICENSE", "pyproject.toml", "hatch_build.py")


def tracked(folder: str) -> set[str]:
    """Return the files of a folder that belong to the project, relative to the root."""
    listed = subprocess.run(["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    return set(listed.stdout.split("\0")) - {""}


def faults(wheel: Path, sdist: Path) -> list[str]:
    """Return what is wrong with the contents, one line each."""
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        metadata = message_from_bytes(archive.read(next(name for name in inside if name.endswith(".dist-info/METADATA"))))
    with tarfile.open(sdist) as tar:
        source = {name.partition("/")[2] for name in tar.getnames()}
    found = [f"{wheel.name} lacks {name}" for name in sorted(tracked("src/chiron")) if name.removeprefix("src/") not in inside]
    found += [f"{sdist.name} lacks {name}" for name in sorted({*tracked("src"), *tracked("tests"), *NEEDED}) if name not in source]
    text = str(metadata.get_payload())
    found += [f"the long description has the relative link {link[0]}" for link in (*LINK.finditer(text), *IMAGE.finditer(text))]
    return found


def run_installed(wheel: Path) -> str:
    """Install the wheel into a fresh environment; return the version that `chiron` prints there, after it wrote a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        venv.create(home / "venv", with_pip=True)
        programs = home / "venv" / "bin"
        subprocess.run(
            [programs / "python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel], check=True
        )
        subprocess.run([programs / "chiron", "init", "--template", "offline", "--out", home / "offline.yaml"], check=True)
        printed = subprocess.run([programs / "chiron", "--version"], cwd=home, capture_output=True, text=True, check=True)
        return printed.stdout.strip()


def main() -> None:
    dist = Path(sys.argv[1]).resolve()
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    if found := faults(wheel, sdist):
        sys.exit("\n".join(found))
    print(f"{wheel.name} and {sdist.name} are complete; in a fresh environment: {run_installed(wheel)}")


if __name__ == "__main__":
    main()
