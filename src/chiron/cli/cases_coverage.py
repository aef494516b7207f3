"""``chiron cases coverage``: how many cases there are of each modality in each body system."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiron.cli.consoles import messages
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.cases.coverage import Coverage

_LISTED = 5


def command(
    cases: Annotated[Path, typer.Argument(metavar="CASES", help="JSONL or JSON, in the published or the tidy format.")],
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the map too: .svg, .png or .pdf.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the map as JSON.")] = False,
) -> None:
    """Print the map of twelve modalities by twenty body systems."""
    from chiron.cases.coverage import coverage_of_file

    coverage = coverage_of_file(cases)
    if json_output:
        print(json.dumps(coverage.to_record(), ensure_ascii=False))
    else:
        print("\n".join(_table(coverage)))
    if figure is not None:
        from chiron.cases.coverage_figure import draw_coverage

        draw_coverage(coverage, figure)
        messages().print(printable(f"wrote {figure}"), markup=False)


def _table(coverage: "Coverage") -> list[str]:
    from chiron.cases.body_systems import BODY_SYSTEMS
    from chiron.cases.modalities import MODALITIES

    counts = {(m.name, s.name): coverage.count(m.name, s.name) for m in MODALITIES for s in BODY_SYSTEMS}
    width = max(4, *(len(str(n)) for n in counts.values())) + 1
    lines = [" " * 19 + "".join(s.short.rjust(width) for s in BODY_SYSTEMS)]
    for m in MODALITIES:
        cells = (str(counts[m.name, s.name] or "·").rjust(width) for s in BODY_SYSTEMS)
        lines.append(m.name.ljust(19) + "".join(cells))
    bad = f"; {coverage.bad:,} records cannot be read ('chiron cases check' says why)" if coverage.bad else ""
    lines.append(f"{coverage.cases:,} cases, {coverage.cases - coverage.unplaced:,} placed{bad}")
    if coverage.unplaced:
        why = f"{coverage.no_modality:,} of no known modality, {coverage.no_system:,} of no certain body system"
        lines.append(f"{coverage.unplaced:,} unplaced: {why}")
    if hollow := coverage.findings_without_images:
        more = ", ..." if len(hollow) > _LISTED else ""
        lines.append(
            printable(f"{len(hollow):,} describe images of a modality that they have none of: {', '.join(hollow[:_LISTED])}{more}")
        )
    return lines
