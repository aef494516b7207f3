"""Measure the demonstration's checkpoints with all four controls. ``python -m bench.miniature_controls DIR OUT``.

``DIR`` is a folder of ``chiron demo`` (for example ``demo/full-0``). ``OUT`` gets evaluations and tables; evaluations are resumed.
"""

import shlex
import subprocess
import sys
from pathlib import Path

MODELS = {"mics_verified/model": "mics", "direct_answers/model": "direct", "base/model": "stage-2"}
PLAIN, CHOICE = "miniature_seen,miniature_held_out", "miniature_choice"
WANTED = ((f"{PLAIN},{CHOICE}", "none"), (PLAIN, "no-image"), (PLAIN, "blank"), (PLAIN, "swap"), (CHOICE, "shuffle-options"))
"""Benchmarks and the control that they are asked with."""


def commands(out: Path) -> list[list[str]]:
    """Return the commands, to be run in ``DIR`` in this order."""
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
    """Run all commands in the demonstration's folder, and print each."""
    if len(sys.argv) != 3:
        sys.exit("python -m bench.miniature_controls DIR OUT: name the folder of a demonstration and an output folder")
    folder, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    if lost := [name for name in (*MODELS, "data") if not (folder / name).is_dir()]:
        sys.exit(f"{folder} has no {lost[0]}: name a folder in which 'chiron demo' has finished")
    for command in commands(out):
        print(shlex.join(command), flush=True)
        subprocess.run([sys.executable, "-m", *command], cwd=folder, check=True)
    print(out / "tables.md")


if __name__ == "__main__":
    main()
