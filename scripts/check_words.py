"""Find words that plain English does without: ``python scripts/check_words.py FILE_OR_FOLDER ...``.

Each pattern has the plain words to use instead. Of a Markdown file, the text is checked; of a Python file, its comments and strings; of a
template or YAML file, every line. Code blocks and inline code are not checked, because they quote programs. The prompts of the search and
the dataset are not checked either: their hashes are in the identities of existing runs. ``words: kept`` on a line or above it
exempts the line.
"""

import re
import sys
import tokenize
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
    r"\b(?:go|goes|went|gone|going) on with\b": "continue",
    r"\b(?:go|goes|gone) on\b": "continue",
    r"\bstands? (?:in|there|at|under)\b": "is in, is stored in",
    r"\bit stands\b": "is",
    r"(?<!there )\b(?:is|are|was|were) (?-i:none)\b": "there is no",
    r"\b(?:is|are|was|were) no (?=(?:[a-z]+ )?(?:number|file|folder|directory|list|mapping|text|image|ledger|name|path|JSON|YAML)\b)": (
        "is not a"
    ),
    r"\btook it not\b": "failed",
    r"\btold\b(?! (?:the|it|them) (?:not )?to\b)": "reported, given",
    r"\bcome(?:s)? to (?:a|an|the|be)\b": "is, amounts to",
    r"\bwherewith\b|\bthereof\b|\bwhereof\b|\btherein\b|\bhereby\b": "plain words",
}
_CODE = re.compile(r"`[^`]*`")
_STRINGS = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
_KEPT = "words: kept"
_TEXTS = (".md", ".py", ".html", ".jinja", ".yaml", ".txt")


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the checked lines of a file with their numbers."""
    if path.suffix == ".py":
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type in _STRINGS:
                    yield from enumerate(token.string.splitlines(), start=token.start[0])
        return
    in_code = False
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if path.suffix == ".md" and line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code:
            yield number, line


def findings(path: Path) -> Iterator[str]:
    """Yield a line for each pattern that a file contains outside of code."""
    source = ["", *path.read_text("utf-8").splitlines()]
    for number, line in _prose(path):
        if _KEPT in source[number] or _KEPT in source[number - 1]:
            continue
        text = _CODE.sub("", line)
        for pattern, plain in PLAIN.items():
            for found in re.finditer(pattern, text, re.IGNORECASE):
                yield f"{path}:{number}: '{found.group()}': write {plain}"


def main(places: list[str]) -> int:
    """Print what was found; 1 if there was anything."""
    files = [
        file
        for place in map(Path, places)
        for file in (
            sorted(f for f in place.rglob("*") if f.suffix in _TEXTS and f.is_file() and f.parent.name != "prompts")
            if place.is_dir()
            else [place]
        )
    ]
    found = [line for file in files for line in findings(file)]
    print("\n".join(found) or f"{len(files)} files: nothing to replace")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
