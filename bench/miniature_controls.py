"""The miniature, measured: its checkpoints in one table, with all four controls. ``python -m bench.miniature_controls DIR OUT``.

``DIR`` is what ``chiron demo`` leaves (for example ``demo/full-0``); ``OUT`` holds the evaluations, which are gone on with, and the tables.
"""

import shlex
import subprocess
import sys
from pathlib import Path

MODELS = {"mics-paths/model": "mics", "direct-answers/model": "direct", "base/model": "stage-2"}
PLAIN, CHOICE = "miniature_seen,miniature_held_out", "miniature_choice"
WANTED = ((f"{PLAIN},{CHOICE}", "none"), (PLAIN, "no-image"), (PLAIN, "blank"), (PLAIN, "swap"), (CHOICE, "shuffle-options"))
"""Benchmarks and the control they are asked under."""


def commands(out: Path) -> list[list[str]]:
    """What a person would type in ``DIR``, one after the other."""
    asked = [
        ["chiron", "eval", "--model", model, "--benchmarks", names, "--data", "data", "--control", control, "--run", str(out / run)]
        for model, run in MODELS.items()
        for names, control in WANTED
    ]
    runs = [str(out / run) for run in MODELS.values()]
    tables = [["chiron", "compare", *runs, "--format", form, "--out", str(out / f"tables.{end}")] for form, end in _FORMS.items()]
    return [*asked, *tables, ["chiron", "compare", *runs, "--items", str(out / "items.html")]]


_FORMS = {"markdown": "md", "html": "html", "latex": "tex"}


def main() -> None:
    """Run all of it in the demonstration's folder, saying each command."""
    if len(sys.argv) != 3:
        sys.exit("python -m bench.miniature_controls DIR OUT: the folder of a demonstration, and where to write")
    folder, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    if lost := [name for name in (*MODELS, "data") if not (folder / name).is_dir()]:
        sys.exit(f"{folder} has no {lost[0]}: name a folder in which 'chiron demo' came to its end")
    for command in commands(out):
        print(shlex.join(command), flush=True)
        subprocess.run([sys.executable, "-m", *command], cwd=folder, check=True)
    print(out / "tables.md")


if __name__ == "__main__":
    main()
