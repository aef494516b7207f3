"""What identifies a patient, planted in report text: recall of the importer's check by kind, and its false alarms.

The first set is made of carriers and identifiers drawn from lists with a fixed seed. The lists were written by the people who wrote the
rules: the figures say how well the rules do what they are meant to do. The second set takes its identifiers from the package ``faker``
(``pip install faker``), whose authors did not write the rules; the rules were extended once
after a look at what they missed of it. Neither is a measurement on reports of a hospital.
"""

import importlib
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from bench.table import heading, table
from chiron.importing.phi_filter import find_identifying, names

COUNT = 200
"""Sentences of each kind."""
_SURNAMES = (
    "Müller Schröder Jäger Größmann Kühn Özdemir Garcia-López Muñoz Fernández Lefèvre Beauchêne D'Angelo O'Connor MacAllister Johansson"
    " Sørensen Kowalczyk Novák Nguyen Okonkwo Hartmann Delacroix Castellanos Whitfield Abernathy Pemberton Strand Haugland Vogelsang Reuter"
).split()
_FIRST = (
    "Anna Björn Chloé Dieter Elena François Greta Héctor Ingrid José Katarzyna Liam Maya Noël Olga Pierre Quentin Rosa Sven Théa".split()
)
_CARRIERS = {
    "en": ("Comparison: {}.", "The patient was seen ({}) with pain of the knee.", "No change since {}.", "Discussed with {} by the team."),
    "de": ("Vergleich: {}.", "Vorstellung am Vortag ({}) wegen Schmerzen.", "Rücksprache mit {} erfolgt."),
    "fr": ("Comparaison : {}.", "Vu en consultation ({}) pour douleur.", "Discuté avec {} ce jour."),
    "es": ("Comparación: {}.", "Visto en consulta ({}) por dolor.", "Comentado con {} hoy."),
}
_TITLES = {
    "en": ("Mr {}", "Mrs {}", "Ms. {}", "Dr {}", "Dr. {}", "Professor {}"),
    "de": ("Herr {}", "Frau {}", "Herrn {}", "Dr. med. {}", "Prof. Dr. {}", "Fr. {}"),
    "fr": ("M. {}", "Mme {}", "Mlle {}", "Dr {}", "Pr {}", "Madame {}"),
    "es": ("Sr. {}", "Sra. {}", "Dr. {}", "Dra. {}", "Don {}", "Doña {}"),
}
_MONTHS = {
    "en": "January February March April May June July August September October November December".split(),
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split(),
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split(),
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split(),
}
_WORDED = {
    "en": ("{d} {m} {y}", "{m} {d}, {y}", "{m} {y}"),
    "de": ("{d}. {m} {y}", "{m} {y}"),
    "fr": ("{d} {m} {y}", "{m} {y}"),
    "es": ("{d} de {m} de {y}", "{m} de {y}"),
}
_STREETS = {
    "en": ("{n} Oak Street", "{n} Church Road", "{n} North Park Avenue", "{n} Elm Lane", "P.O. Box {n}"),
    "de": ("Hauptstraße {n}", "Lindenstr. {n}", "Berliner Allee {n}", "Goethestrasse {n}a", "{p} Köln"),
    "fr": ("{n} rue de la Paix", "{n}, avenue Victor Hugo", "{n} bis boulevard Voltaire", "{p} Lyon"),
    "es": ("Calle Mayor {n}", "Avenida de América, {n}", "C/ Alcalá {n}", "{p} Sevilla"),
}
_PHONES = {
    "en": ("+1 {a} 555 {b}", "({a}) 555-{b}", "{a}-555-{b}", "+44 20 7946 {b}", "020 7946 {b}"),
    "de": ("+49 30 {b} {b}", "0711 {b}{a}", "030/{b}{a}", "0171 {a}{b}", "(089) {b}{a}"),
    "fr": ("+33 1 42 68 53 00", "01 42 68 {c} {d}", "06.12.34.{c}.{d}"),
    "es": ("+34 612 345 {a}", "612 34 {c} {d}", "91 {a} {c} {d}"),
}
_RECORDS = {
    "en": ("MRN 77 88 {c}", "MRN: 00{b}{c}", "medical record number 44{b}", "NHS no 943 476 {b}", "accession A{b}{b}", "SSN 123-{c}-{b}"),
    "de": ("Fallnummer 20{b}{c}", "Pat.-Nr. 12 34 {c}", "Patientennummer {b}{b}"),
    "fr": ("dossier n° {b}{c}", "IPP {b}{b}{c}", "NIR 1 85 05 78 {a} {a}"),
    "es": ("NHC {b}{c}", "historia clínica {b}{c}", "DNI 1234{b}Z"),
}
_AGES = {
    "en": ("{g}-year-old woman", "{g} years old", "aged {g}", "{g} y/o man", "age: {g}"),
    "de": ("{g}-jährige Patientin", "{g} Jahre alt", "im Alter von {g} Jahren"),
    "fr": ("patiente de {g} ans", "âgé de {g} ans"),
    "es": ("mujer de {g} años", "varón de {g} años"),
}
_NET = (
    "https://pacs.clinic.example/study?id={b}",
    "www.praxis-nord.example",
    "http://10.4.{c}.{d}/viewer",
    "192.168.{c}.{d}",
    "anna.weber@clinic.example",
)
_CLEAN = (
    "Disc protrusion at L{i}-L5 with {m} mm of displacement.",
    "A mass of {m}.{i} x {m} x 1{i} cm in the left lobe, {m} HU.",
    "A {a}-year-old woman with pain for {i} weeks and fever of 38.{i} degrees.",
    "T2 FLAIR, TE {m}, TR 4{m}0, b-values 0, 500, 1000; power {i}/5.",
    "Fracture of the {i}th rib; Hounsfield value 1{m}; BI-RADS {i}, TNM T{i} N1 M0.",
    "Aorta of {m} mm (normal below 40), ejection fraction {m} %, ratio 1:{i}.",
    "Morbus Crohn, M. Parkinson, Schatzki ring, Baker cyst, Hodgkin lymphoma stage {i}.",
    "Der Herd misst {m} x 1{i} mm, Dichte {m} HE, Segment {i} der Leber.",
    "Nodule de {m} mm du lobe supérieur droit, score {i} sur 5.",
    "Nódulo de {m} mm en el lóbulo superior, grado {i} de 5.",
    "Version 3.{i}.1 of the protocol, kernel B{m}, 120 kV, {m} mAs, CTDI {i}.{m} mGy.",
    "May show enhancement; march fracture of the second metatarsal, 1/{i} of cases, power 4+/5.",
)


_LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES")
_FOREIGN = ("phone_number", "address", "street_address", "ssn", "email", "url", "ipv4", "ipv6", "name")


def _values(rng: random.Random) -> dict[str, int]:
    spans = {
        "a": (200, 999),
        "b": (1000, 9999),
        "c": (10, 99),
        "d": (10, 99),
        "g": (90, 104),
        "n": (1, 199),
        "p": (10_001, 98_999),
        "y": (1990, 2023),
        "m": (11, 79),
        "i": (2, 4),
    }
    return {name: rng.randint(*span) for name, span in spans.items()}


def _filled(rng: random.Random, forms: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    language = rng.choice([*forms])
    return language, rng.choice(forms[language]).format(**_values(rng))


def _worded(rng: random.Random) -> tuple[str, str]:
    language = rng.choice([*_MONTHS])
    month = rng.choice(_MONTHS[language])
    return language, rng.choice(_WORDED[language]).format(d=rng.randint(1, 28), m=month, y=rng.randint(1990, 2023))


def _numeric(rng: random.Random) -> tuple[str, str]:
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1990, 2023)
    forms = (
        f"{day:02}/{month:02}/{year}",
        f"{day}.{month}.{year}",
        f"{year}-{month:02}-{day:02}",
        f"{day:02}.{month:02}.{year % 100:02}",
        f"{month}/{day}/{year % 100:02}",
    )
    return rng.choice([*_CARRIERS]), rng.choice(forms)


def _titled(rng: random.Random) -> tuple[str, str]:
    language = rng.choice([*_TITLES])
    return language, rng.choice(_TITLES[language]).format(rng.choice(_SURNAMES))


def _bare(rng: random.Random) -> tuple[str, str]:
    return rng.choice([*_CARRIERS]), f"{rng.choice(_FIRST)} {rng.choice(_SURNAMES)}"


_OTHERWISE: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    str.lower,
    lambda name: unicodedata.normalize("NFD", name),
    lambda name: f"{name}s",
    lambda name: f"{name}'s",
    lambda name: name.replace("ü", "ue").replace("ö", "oe").replace("ä", "ae").replace("ß", "ss").replace("Ö", "Oe"),
    lambda name: "".join(c for c in unicodedata.normalize("NFD", name) if not unicodedata.combining(c)),
)
_FORMS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "name after a title": _titled,
    "date in digits": _numeric,
    "date in words": _worded,
    "phone number": lambda rng: _filled(rng, _PHONES),
    "record number": lambda rng: _filled(rng, _RECORDS),
    "postal address": lambda rng: _filled(rng, _STREETS),
    "age over 89": lambda rng: _filled(rng, _AGES),
    "web, network or e-mail address": lambda rng: ("en", rng.choice(_NET).format(**_values(rng))),
    "name that nothing marks": _bare,
}


def measure(count: int = COUNT) -> list[tuple[object, ...]]:
    """For each kind: sentences planted, sentences found, recall. The last line counts clean sentences and false alarms."""
    rng = random.Random(20)
    lines: list[tuple[object, ...]] = []
    for kind, make in _FORMS.items():
        found = 0
        for _ in range(count):
            language, said = make(rng)
            found += bool(find_identifying(rng.choice(_CARRIERS[language]).format(said)))
        lines.append((kind, count, found, f"{found / count:.2f}"))
    found = 0
    for _ in range(count):
        surname = rng.choice(_SURNAMES)
        said = rng.choice(_CARRIERS["en"]).format(rng.choice(_OTHERWISE)(surname))
        found += bool(find_identifying(said, names(f"{surname}^{rng.choice(_FIRST)}")))
    lines.insert(1, ("name that the header has, written otherwise", count, found, f"{found / count:.2f}"))
    alarms = sum(bool(find_identifying(rng.choice(_CLEAN).format(**{**_values(rng), "a": rng.randint(1, 89)}))) for _ in range(count))
    lines.append(("clean sentences (false alarms)", count, alarms, f"{alarms / count:.2f}"))
    return lines


def measure_foreign(count: int = COUNT) -> list[tuple[object, ...]]:
    """For each locale: recall on identifiers that ``faker`` makes. Nothing where the package is not installed."""
    try:
        faker = importlib.import_module("faker")
    except ModuleNotFoundError:
        return []
    lines: list[tuple[object, ...]] = []
    for locale in _LOCALES:
        faker.Faker.seed(20)
        maker = faker.Faker(locale)
        found: Counter[str] = Counter()
        for _ in range(count):
            for kind in _FOREIGN:
                said = str(getattr(maker, kind)()).replace("\n", ", ")
                found[kind] += bool(find_identifying(f"Send the result to {said} this week."))
        lines.append((locale, *(f"{found[kind] / count:.2f}" for kind in _FOREIGN)))
    return lines


def main() -> None:
    """Print both tables."""
    heading("De-identification")
    table(("kind", "planted", "found", "recall"), measure())
    if foreign := measure_foreign():
        print()
        table(("locale", *_FOREIGN), foreign)
    else:
        print("\nNot measured on other identifiers: the package faker is not installed.")


if __name__ == "__main__":
    main()
