"""Build the tables of a comparison."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from chiron.errors import InputError
from chiron.evaluation.comparing import Against, Compared, Comparison, Controlled, Test
from chiron.evaluation.figures import FEW_IMAGES, Accuracy, accuracy, by_label
from chiron.evaluation.protocols.protocol import Protocol
from chiron.evaluation.read_runs import SETTINGS
from chiron.evaluation.registry import protocols
from chiron.evaluation.statistics import Consistency, Share
from chiron.evaluation.tables import formats
from chiron.evaluation.tables.formats import EMPTY, Cell, Grid, cell, grid_of

CLUSTERED = "a cluster-robust t interval over images"
_TESTS: dict[Test, str] = {
    "McNemar": "Test: McNemar's, exact; every item has its own image",
    "image swaps": (
        "Test: paired permutation that swaps the two models' answers for whole images, because items share images; exact, all swaps counted"
    ),
}
N_NOTE = "N: all items of the benchmark. Unparsed, unusable and pending items count in N and are not right."
_FEW = (
    f"Fewer than {FEW_IMAGES} images ('only N images'; an item without an image counts as one): intervals are rough there,"
    " and a test finds only large differences."
)
_SETTING_NAMES = {
    "model": "the model itself",
    "temperature": "temperatures",
    "image_side": "image sizes",
    "max_images": "maximum numbers of images",
    "max_tokens": "token limits",
    "prompts": "prompts",
}


def grids(comparison: Comparison, *, label: str | None = None, files: Sequence[Path] = ()) -> list[Grid]:
    """Build the tables of one protocol: accuracy, then controls, other metrics and accuracy by label, where available.

    Args:
        comparison: from :func:`chiron.evaluation.comparing.compare`.
        label: also split the accuracy by this label.
        files: Python files with further protocols. A protocol that is not found has no notes of its own.

    Raises:
        InputError: no item has the label (the message lists the available labels), or a file cannot be loaded.
    """
    protocol = protocols(files).get(comparison.protocol)
    measured = [x.accuracy for x in comparison.cells.values()] + [x.accuracy for x in comparison.controls.values()]
    right_or_wrong = not any(one.scored for one in measured)
    found = [_accuracy(comparison, protocol)] if comparison.cells and right_or_wrong else []
    if comparison.controls and right_or_wrong:
        found.append(_controls(comparison))
    if any(c.scores for c in comparison.cells.values()):
        found.append(_scores(comparison, protocol))
    if label is not None and right_or_wrong:
        found += _labels(comparison, label)
    return found


def _accuracy(c: Comparison, protocol: Protocol | None) -> Grid:
    sizes = {b: {x.accuracy.items for (_, of), x in c.cells.items() if of == b} for b in c.benchmarks}
    titles = {b: f"{b} (N {min(sizes[b]):,})" if len(sizes[b]) == 1 else b for b in c.benchmarks}
    cells = {
        (m, titles[b]): _real(c.cells[m, b], protocol, alone=len(sizes[b]) == 1)
        for m in c.models
        for b in c.benchmarks
        if (m, b) in c.cells
    }
    return grid_of(f"Accuracy in percent, protocol {c.protocol}", "model", cells, _accuracy_notes(c, protocol), list(titles.values()))


def _real(compared: Compared, protocol: Protocol | None, *, alone: bool) -> Cell:
    a, against = compared.accuracy, compared.against
    stars = formats.mark(against.adjusted) if against else ""
    reference = " (ref)" if compared.is_reference else ""
    return cell(
        f"{formats.with_interval(a.share)}{stars}{reference}",
        "" if alone else f"N {a.items:,}",
        *formats.doubts(a),
        _seeds(a),
        left_out(a.missing_left_out) if protocol and protocol.leaves_out_unparsed else "",
        _to_reference(against) if against else "",
        strong=compared.is_reference,
    )


def _to_reference(against: Against) -> str:
    if against.difference is None or against.adjusted is None:
        return f"not tested: {against.problem}"
    return f"to ref {formats.difference_with_interval(against.difference)}, {formats.p_value(against.adjusted)}"


def _seeds(a: Accuracy) -> str:
    s = a.seeds
    return f"{s.seeds} seeds: sd {formats.percent(s.sd)}, {formats.percent(s.low)} to {formats.percent(s.high)}" if s else ""


def left_out(share: Share) -> str:
    """Format the figure without missing answers, as a published script prints it."""
    return f"as published (missing left out): {formats.percent(share.value)} of {share.of:,}"


def _accuracy_notes(c: Comparison, protocol: Protocol | None) -> Iterator[str]:
    yield from interval_notes([x.accuracy for x in c.cells.values()])
    yield N_NOTE
    if c.tests:
        yield from _test_notes(c)
        if c.reference is None:
            yield "The best was chosen from the same answers, so p is a little too small; name a reference beforehand with --reference."
    if any(x.accuracy.seeds for x in c.cells.values()):
        yield "With several seeds, the figure is their mean, and the test uses the first seed."
    if protocol and protocol.leaves_out_unparsed:
        yield "A missing answer counts as wrong; the figure below leaves missing answers out of the count, as published."
    yield from protocol.notes if protocol else ()
    yield from _made(c)
    if c.reference and any((c.reference, b) not in c.cells for b in c.benchmarks):
        yield f"{c.reference} was not asked all benchmarks; nothing is tested on the others."
    pending = sum(x.accuracy.pending for x in c.cells.values())
    if pending:
        yield f"{pending:,} answers are pending: run 'chiron eval' again before you use these figures."


def _test_notes(c: Comparison) -> Iterator[str]:
    """Yield which test the stars come from, and for which benchmarks if a table uses several tests."""
    against = f"against {c.reference} (ref)" if c.reference else "against the best of the column (ref)"
    tests = "1 test" if c.tests == 1 else f"{c.tests} tests"
    yield f"* p < 0.05, ** p < 0.01, *** p < 0.001: on the same items {against}, Holm's correction for {tests}."
    used: dict[Test, dict[str, None]] = {}
    for (_, benchmark), x in c.cells.items():
        if x.against is not None and x.against.p is not None:
            used.setdefault(x.against.test, {})[benchmark] = None
    for test, benchmarks in used.items():
        of = f" ({', '.join(benchmarks)})" if len(used) > 1 else ""
        yield f"{_TESTS[test]}{of}."


def interval_notes(measured: Sequence[Accuracy]) -> Iterator[str]:
    """Yield how the intervals of a table's accuracies were computed."""
    methods = {a.share.method for a in measured}
    if "Wilson" in methods:
        yield "Brackets: 95 % interval; Wilson's, because every item has its own image and was asked once."
    if "cluster t" in methods:
        yield f"Brackets: 95 % interval; where items share images or were asked more than once, {CLUSTERED}, on the logit scale."
    if any(a.share.method == "Wilson" and a.groups < a.asked for a in measured):
        yield "If the share is the same for all images, it is Wilson's with one item per image."
    if any(a.has_few_images for a in measured):
        yield _FEW


def _made(c: Comparison) -> Iterator[str]:
    """Yield who gave the verdicts, and how much of a benchmark was asked."""
    judges = {m: name for (m, _), x in c.cells.items() if (name := x.arm.making.judge)}
    if len(set(judges.values())) == 1:
        yield f"Judge: {next(iter(judges.values()))}."
    elif judges:
        yield f"The judges differ, so figures are not comparable: {', '.join(f'{name} ({m})' for m, name in judges.items())}."
    yield from _settings(c)
    for (model, benchmark), x in c.cells.items():
        made = x.arm.making
        if made.limit is not None and made.whole is not None and x.accuracy.items < made.whole:
            yield f"{model}, {benchmark}: only the first {x.accuracy.items:,} of {made.whole:,} items."


def _settings(c: Comparison) -> Iterator[str]:
    """Yield the settings in which the models differ."""
    for names in dict.fromkeys(c.apart.values()):
        together = [m for m in c.models if c.apart.get(m) == names]
        differ = " and ".join(_SETTING_NAMES[name] for name in names)
        yield f"{', '.join(together)}: runs of one model name; shown separately because they differ in {differ}."
    for name in SETTINGS:
        values = {m: x.arm.making.settings[name] for (m, _), x in c.cells.items() if name in x.arm.making.settings}
        if any(value != other for value in values.values() for other in values.values()):
            listed = "" if name == "prompts" else f": {', '.join(f'{value} ({m})' for m, value in values.items())}"
            yield f"{_SETTING_NAMES[name][0].upper()}{_SETTING_NAMES[name][1:]} differ{listed}."


def _controls(c: Comparison) -> Grid:
    benchmarks = [b for b in c.benchmarks if any(key[2] == b for key in c.controls)]
    cells: dict[tuple[str | tuple[str, ...], str], Cell] = {}
    for model in (m for m in c.models if any(key[0] == m for key in c.controls)):
        cells |= {(model, b): _beside(c, model, b) for b in benchmarks}
        cells |= {((model, str(control)), b): _controlled(x) for (m, control, b), x in c.controls.items() if m == model}
    notes = [
        "To real run: control minus real run in percentage points, on the same items, with its 95 % interval.",
        f"That interval is Newcombe's if every item has its own image, otherwise {CLUSTERED}.",
        "If the difference is the same for all images, it is Newcombe's with one item per image.",
    ]
    if any(x.accuracy.has_few_images for x in c.controls.values()):
        notes.append(_FEW)
    if any(x.consistency for x in c.controls.values()):
        notes.append("Same answer: share of items with the same answer in every order of the options, including the published order.")
    pending = sum(x.accuracy.pending for x in c.controls.values())
    if pending:
        notes.append(f"{pending:,} answers are pending: run 'chiron eval' again before you use these figures.")
    return grid_of(f"Controls, accuracy in percent, protocol {c.protocol}", "model, control", cells, notes, benchmarks)


def _beside(c: Comparison, model: str, benchmark: str) -> Cell:
    real = c.cells.get((model, benchmark))
    if real is None:
        return EMPTY
    a = real.accuracy
    return cell(formats.with_interval(a.share), f"N {a.items:,}", *formats.doubts(a), strong=True)


def _controlled(x: Controlled) -> Cell:
    same = x.consistency
    return cell(
        formats.with_interval(x.accuracy.share),
        f"to real run {formats.difference_with_interval(x.difference)}" if x.difference else f"no difference: {x.problem}",
        f"N {x.accuracy.items:,}",
        *formats.doubts(x.accuracy),
        _same_answer(same) if same is not None and same.items else "",
    )


def _same_answer(c: Consistency) -> str:
    return f"same answer {formats.percent(c.always_same / c.items)} %, right in all orders {formats.percent(c.always_right / c.items)} %"


def _scores(c: Comparison, protocol: Protocol | None) -> Grid:
    cells = {
        ((model, name), b): _score(x, name)
        for name in dict.fromkeys(name for x in c.cells.values() for name in x.scores)
        for model in c.models
        for b in c.benchmarks
        if (x := c.cells.get((model, b))) is not None and name in x.scores
    }
    notes = [
        f"Mean over the answers that have it (n), with the 95 % interval: {CLUSTERED} (on the logit scale if all values are in [0, 1]).",
        "judge:NAME is that judge's share of yes.",
    ]
    if any(figure.method == "Wilson" for x in c.cells.values() for figure in x.scores.values()):
        notes.append("If all images have the same score, it is Wilson's with one answer per image.")
    if any(x.accuracy.has_few_images for x in c.cells.values()):
        notes.append(_FEW)
    if any(x.accuracy.scored for x in c.cells.values()):
        notes += [*(protocol.notes if protocol else ()), *_made(c)]
    return grid_of(f"Other metrics, protocol {c.protocol}", "model, metric", cells, notes, c.benchmarks)


def _score(compared: Compared, name: str) -> Cell:
    figure, measured = compared.scores[name], compared.accuracy
    return cell(formats.score_with_interval(figure), f"n {figure.of:,} of {measured.asked:,}", formats.few_images(measured))


def _labels(c: Comparison, label: str) -> Iterator[Grid]:
    known = {name for x in c.cells.values() for r in x.arm.results for name in r.labels}
    if label not in known:
        there = ", ".join(sorted(known)) or "none"
        raise InputError(f"--by {label}: no item under protocol {c.protocol} has this label (there are: {there})")
    for benchmark in c.benchmarks:
        asked = {m: c.cells[m, benchmark].arm.results for m in c.models if (m, benchmark) in c.cells}
        cells = {(m, value): _part(accuracy(part)) for m, results in asked.items() for value, part in by_label(results, label).items()}
        if any(value != "(none)" for _, value in cells):
            title = f"Accuracy in percent on {benchmark} by {label}, protocol {c.protocol}"
            yield grid_of(title, "model", cells, ("Brackets: 95 % interval. No tests: with so many parts, some differ by chance.",))


def _part(a: Accuracy) -> Cell:
    return cell(formats.with_interval(a.share), f"N {a.items:,}", *formats.doubts(a))
