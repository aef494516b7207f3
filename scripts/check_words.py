"""Find words in the documents that plain English does without: ``python scripts/check_words.py FILE_OR_FOLDER ...``.

Each pattern has the plain words to use instead. Code blocks and inline code are not checked, because they quote programs.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

PLAIN = {
    r"\banew\b": "again",
    r"\blest\b": "so that ... not",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bbesides?\b": "next to, also",
    r"\bnobody\b|\bwhoever\b|\bwhatever\b": "name the subject",
    r"\bof ours\b": "our",
    r"\ball the same\b": "still",
    r"\b(?:go|goes|went|gone) on with\b": "continue",
    r"\bstands? (?:in|there|at|under)\b": "is in, is stored in",
    r"\b(?:is|are|was|were) none\b": "there is no",
    r"\btook it not\b": "failed",
}
_CODE = re.compile(r"`[^`]*`")


def findings(path: Path) -> Iterator[str]:
    """Yield a line for each pattern that a Markdown file contains outside of code."""
    in_code = False
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code:
            text = _CODE.sub("", line)
            for pattern, plain in PLAIN.items():
                for found in re.finditer(pattern, text, re.IGNORECASE):
                    yield f"{path}:{number}: '{found.group()}': write {plain}"


def main(places: list[str]) -> int:
    """Print what was found; 1 if there was anything."""
    files = [file for place in map(Path, places) for file in (sorted(place.rglob("*.md")) if place.is_dir() else [place])]
    found = [line for file in files for line in findings(file)]
    print("\n".join(found) or f"{len(files)} documents: nothing to replace")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
