"""The published format and the tidy one: read as they are, their images copied along under the names that they have."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from chiron.cases.case import BadCase
from chiron.cases.images import image_folder
from chiron.cases.importing.kinds import JSONL, the_file
from chiron.cases.importing.pictures import copied
from chiron.cases.importing.pseudonyms import Pseudonyms, folder_name
from chiron.cases.importing.records import Draft, Group, ImportOptions, LeftOut, Picture, Reading, Why
from chiron.cases.reading import read_cases


def read_jsonl(source: Path, options: ImportOptions, pseudonyms: Pseudonyms) -> Reading:
    """Drafts of a file of cases.

    Raises:
        InputError: the file or its image folder is not there.
    """
    path = the_file(source, JSONL, "JSONL file")
    folder = image_folder(path, options.images)

    def items() -> Iterator[Draft | LeftOut]:
        for case in read_cases(path, material=True):
            place = f"{path.name}, line {case.line}"
            if isinstance(case, BadCase):
                yield LeftOut(place, case.id, Why.RECORD, case.problem)
                continue
            draft, names = case, {name: name for name in case.images}
            if options.keep_ids is False:
                draft = replace(case, id=pseudonyms.name("case", case.id))
                # The old names hold the old id.
                under = folder_name(draft.id)
                names = {name: f"{under}/{n}{Path(name).suffix.lower()}" for n, name in enumerate(case.images)}
                if isinstance(patient := case.meta.get("patient"), str | int):
                    draft = replace(draft, meta=MappingProxyType({**case.meta, "patient": pseudonyms.name("patient", str(patient))}))
            if draft.modality is None and options.modality is not None:
                draft = replace(draft, modality=options.modality)
            pictures = tuple(Picture(kept, copied(folder, name)) for name, kept in names.items())
            yield Draft(replace(draft, images=()), (Group(pictures, place),), place)

    return Reading(items())
