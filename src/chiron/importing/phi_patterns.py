"""Patterns of names, dates, places and numbers in English, German, French and Spanish reports.

Surrounding words rule out false matches such as sizes, levels, scores and hospital departments.
"""

import ipaddress
import re
from enum import StrEnum


class PhiKind(StrEnum):
    """Kind of identifying text."""

    NAME = "name"
    DATE = "date"
    PHONE = "phone number"
    EMAIL = "e-mail address"
    RECORD = "record number"
    ADDRESS = "address"
    AGE = "age over 89"
    WEB = "web or network address"


_UNIT = re.compile(r"\s?(?:mm|cm|ml|cc|mg|kg|mSv|mGy|HU|Hz|ms|s/mm|x\s?\d|\u00d7\s?\d|%|fractures?\b)", re.IGNORECASE)
_COUNTED = re.compile(
    r"\b(?:ribs?|segments?|levels?|grades?|stages?|scores?|teeth|tooth|zones?|stations?|types?|images?|slices?|figures?|digits?|fingers?"
    r"|toes?|nerves?|power|strength|reflexes|ratio|b[- ]?values?|metatarsals?|metacarpals?|vertebrae|PMID|NCT|doi|rID|dimensions?)"
    r"[\s:#]*$",
    re.IGNORECASE,
)
_SERVICE = re.compile(
    r"\b(?:\w+ology|\w*surgery|Surgical|Surgeons?|Emergency|Department|Dept|General|Practitioner|Practice|Physicians?|Medicine|Medical"
    r"|Clinic|Hospital|Team|Unit|Ward|Orthop\w+|P\w?ediatrics?|Intensive|Care|Family|Primary|Accident|Trauma|Outpatients?|Consultant)\b"
)


def harmless(kind: PhiKind, match: re.Match[str], text: str) -> bool:
    """Return whether the surrounding words show that a match is harmless."""
    judge = _HARMLESS.get(kind)
    before, after = text[max(0, match.start() - 24) : match.start()], text[match.end() : match.end() + 12]
    return judge is not None and judge(match, before, after)


def _is_no_date(match: re.Match[str], before: str, after: str) -> bool:
    numbers = match.groupdict()
    if numbers.get("a") is not None:
        days = int(numbers["a"]), int(numbers["b"])
        if not (1 <= min(days) <= 12 and max(days) <= 31):
            return True
    return bool(_UNIT.match(after) or _COUNTED.search(before))


def _is_no_record(match: re.Match[str], before: str, after: str) -> bool:
    matched = match.group()
    return matched.isdigit() and (matched.endswith("000") or bool(_UNIT.match(after)) or bool(_COUNTED.search(before)))


def _is_no_name(match: re.Match[str], before: str, after: str) -> bool:
    del before, after
    matched = match.group()
    if matched.startswith("M. "):
        return _MORBUS.fullmatch(matched) is not None
    return bool(_SERVICE.search(matched)) or matched.startswith(("Sister Mary Joseph", "Sister Joseph"))


def _is_no_address(match: re.Match[str], before: str, after: str) -> bool:
    del before, after
    return bool(re.fullmatch(r"[CTLS]\d{1,2} \d(?:ST|ND|RD|TH)|\d\d000 \w+", match.group()))


def _is_no_host(match: re.Match[str], before: str, after: str) -> bool:
    del after
    matched = match.group()
    if not matched.replace(".", "").isdigit():
        return bool(_PUBLIC.match(matched))
    try:
        ipaddress.IPv4Address(matched)
    except ValueError:
        return True
    return re.search(r"(?:\bv|version|release|section|software)[ :.]*\Z", before, re.IGNORECASE) is not None


_HARMLESS = {
    PhiKind.DATE: _is_no_date,
    PhiKind.RECORD: _is_no_record,
    PhiKind.NAME: _is_no_name,
    PhiKind.ADDRESS: _is_no_address,
    PhiKind.WEB: _is_no_host,
}
_MORBUS = re.compile(
    r"M\. (?:Crohn|Parkinson|Hodgkin|Alzheimer|Bechterew|Basedow|Scheuermann|Paget|Perthes|Osgood|Schlatter|Sudeck|Wilson|Addison|Cushing"
    r"|Whipple|Meni\w+|Dupuytren|Ledderhose|Peyronie|Boeck|Kahler|K\u00f6hler|Ahlb\u00e4ck|Forestier|Baastrup|Still|Fabry|Gaucher|Pompe"
    r"|Hirschsprung|Ormond|Bowen|Huntington|Raynaud|\w+(?:us|is|or|eps|ius)\b.*)"
)
"""``M.`` before a disease (Morbus) or a muscle, not Monsieur."""
_PUBLIC = re.compile(r"https?://(?:dx\.)?(?:doi\.org|(?:www\.)?ncbi\.nlm\.nih\.gov|pubmed\.)", re.IGNORECASE)
"""Addresses of publications."""
_MONTH = (
    r"(?:January|February|March|April|June|July|August|September|October|November|December"
    r"|Januar|Februar|März|Maerz|Mai|Juni|Juli|Oktober|Dezember|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec"
    r"|JANUARY|FEBRUARY|MARCH|APRIL|JUNE|JULY|AUGUST|SEPTEMBER|OCTOBER|NOVEMBER|DECEMBER)\.?"
)
_MONTH_OR_MAY = rf"(?:{_MONTH}|May|MAY)"
_ROMANCE_MONTH = (
    r"(?i:janvier|f[ée]vrier|mars|avril|mai|juin|juillet|ao[uû]t|septembre|octobre|novembre|d[ée]cembre"
    r"|enero|febrero|marzo|abril|mayo|junio|julio|agosto|sep?tiembre|octubre|noviembre|diciembre)"
)
_CAPITALS = r"(?:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th|er|\.)?"
_YEAR = r"(?:19|20)\d\d"
_WORD = r"[A-ZÀ-ÖØ-Þ][\w'\u2019-]+"
_PERSON = rf"(?:{_WORD}|[A-Z]\.)(?:[ ,]{{1,2}}(?:{_WORD}|[A-Z]\.)){{1,2}}"

_DATES = rf"""
    (?<![\w./-])(?P<a>\d{{1,2}})(?P<sep>[./-])(?P<b>\d{{1,2}})(?P=sep)(?:{_YEAR}|\d\d)(?![\w/-]|\.\d)
  | (?<![\w./-])(?:0?[1-9]|[12]\d|3[01])\.[ ](?:0?[1-9]|1[0-2])\.[ ]{_YEAR}(?!\w)
  | (?<![\w.-]){_YEAR}[-/.](?:0?[1-9]|1[0-2])[-/.](?:0?[1-9]|[12]\d|3[01])(?![\w/-]|\.\d)
  | (?<![\w.]){_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?![\w.]\d)
  | (?<![\w./-])(?:0?[1-9]|1[0-2])/{_YEAR}(?![\w/])
  | (?<![\w./-]){_DAY}[ ]?(?:of[ ])?{_MONTH_OR_MAY},?(?:[ ]{_YEAR})?(?!\w)
  | (?<!\w){_MONTH_OR_MAY}[ ](?:{_DAY},?[ ])?{_YEAR}(?!\w)
  | (?<!\w){_MONTH}[ ]{_DAY}(?![\w/.-]\d|\d|[ ]?(?:mm|cm|x|%))
  | (?<!\w)May[ ](?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)(?!\w)
  | (?<!\w)\d{{1,2}}[ -]?{_CAPITALS}[ -]?(?:{_YEAR}|\d\d)(?!\w)
  | (?<![\w./-]){_DAY}[ ](?:de[ ])?{_ROMANCE_MONTH}(?:[ ](?:del?[ ])?{_YEAR})?(?!\w)
  | (?<!\w){_ROMANCE_MONTH}[ ](?:del?[ ])?{_YEAR}(?!\w)
  | (?<!\w)(?:DOB|D\.O\.B\.|[Dd]ate[ ]of[ ]birth|[Bb]irth[ ]?date|born[ ]on
       |geb\.|geboren[ ]am|Geburtsdatum|n[ée]{{1,2}}[ ]le|nacid[oa][ ]el)
    \W{{0,3}}\d[\d./ -]*
"""
_PHONES = r"""
    (?<![\w+])\+\d{1,3}[ ./()-]{0,2}\d(?:[ ./()-]{0,2}\d){6,12}(?!\d)
  | (?<![\w.-])\(\d{3}\)[ ]?\d{3}[-. ]\d{4}(?:x\d{1,6})?(?!\d)
  | (?<![\w.-])\(0\d{1,5}\)[ ]?\d{2,9}(?:[ -]\d{1,6}){0,3}(?!\w)
  | (?<![\w.-])\d{3}-\d{3}-\d{4}(?:x\d{1,6})?(?![\w-])
  | (?<![\w.-])\d{3}\.\d{3}\.\d{4}(?:x\d{1,6})?(?!\w|\.\d)
  | (?<![\w.,-])0\d{2,5}(?:[ ]?[/-][ ]?|[ ])\d{3,9}(?:[ -]\d{1,6}){0,3}(?!\w)
  | (?<![\w.,-])0\d(?:[ .-]\d\d){4}(?![\w.]?\d)
  | (?<![\w.,-])[6789]\d(?:\d[ .-]\d\d[ .-]\d\d[ .-]\d\d|[ ]\d{3}[ ]\d\d[ ]\d\d)(?![\w.,]?\d)
  | (?<!\w)(?:[Tt][eé]l|[Pp]hone|[Tt]elephone|[Ff]ax|[Mm]obile?|[Pp]ager|[Bb]leep|[Ee]xt(?:ension)?|[Cc]ell|[Tt]elefon|[Tt]el[eé]fono
       |[Tt]l[fn]|[Hh]andy|[Mm][oó]vil|[Pp]ortable)
    (?:[ .-]{1,2}(?:no|number|Nr))?\.?[ :#]{1,3}[(+]?\d[\d ()/-]{2,18}\d
"""
_RECORDS = r"""
    (?<!\w)(?:MRN|mrn|[Mm]edical[ ]record|[Rr]ecord|[Hh]ospital|[Pp]atient|[Aa]ccession|[Ss]tudy|[Cc]ase|NHS|SSN|PID
       |[Ii]nsurance|[Pp]olicy|[Ss]pecimen)
    (?:[ ]?(?:ID|[Ii]d|[Nn]o|[Nn]umber|[Nn]r|\#))?\.?[ :#]{1,3}
    (?=[\w/-]*\d[\w/-]*\d[\w/-]*\d[\w/-]*\d)(?![12]\d{3}\b)[A-Za-z]{0,4}[\d/-][\w/-]*
  | (?<!\w)(?:MRN|mrn|[Mm]edical[ ][Rr]ecord|[Hh]ospital|[Pp]atient|[Aa]ccession|NHS|SSN|PID
       |[Pp]at(?:ienten)?\.?-?(?=[ ]?-?N|n|I)|Fall-?|dossier|NHC|IPP|NIR|DNI|NIE|[Hh]istoria(?:[ ]cl[ií]nica)?|Versicherten-?|Auftrags-?)
    [ ]?(?:ID|[Ii]d|[Nn]o|[Nn]umber|[Nn]r|[Nn]ummer|n[°º]|N[°º]|n[uú]mero|\#)?\.?[ :#]{1,3}
    (?![12]\d{3}\b)(?:[A-Z]{0,3}\d{2,4}(?:[ -]\d{2,4}){1,5}|[A-Z]{0,3}\d{4,14}[A-Z]?)(?!\w|[.,]\d)
  | (?<!\w)\d{8}-?[A-Z](?!\w)
  | (?<![\d.,])[12][ ]\d\d[ ](?:0[1-9]|1[0-2])[ ]\d\d[ ]\d{3}[ ]\d{3}(?:[ ]\d\d)?(?!\d)
  | (?<!\w)NHS(?:[ ](?:no|number))?\.?[ :]{1,2}\d{3}[ ]\d{3}[ ]\d{4}(?!\d)
  | (?<![\w.-])\d{3}-\d{2}-\d{4}(?![\w-])
  | (?<![\w./,+-])\d{7,16}(?![\w/]|[.,]\d)
  | (?<!\w)[A-Z]{2}[ ]?(?:\d{6}|\d\d[ ]\d\d[ ]\d\d)[ ]?[A-Z](?!\w)
  | (?<![\w./-])(?!NCT|PMC|COVID)[A-Z]{1,3}-?\d{6,12}(?!\w)
  | (?<![\w./-])[A-Z]{1,3}\d\d-\d{4,8}(?!\w)
  | (?<![\w.])[0-2](?:\.\d{1,39}){6,}(?![\w.]\d)
"""
_PARTICLE = r"(?:(?:von|van|de|del|der|den|la|le|du|des|zu|di|da)[ ]){0,2}"
_NAMES = rf"""
    (?<!\w)(?:Drs?|Prof|Professor|Pr|Doctor|Mr|Mrs|Ms|Miss|Mx|Nurse|Sister|Herrn?|Frau|(?<!\d[ ])Fr(?=\.)|Hr(?=\.)|Fr\u00e4ulein
       |Mme|Mlle|Monsieur|Madame
       |Mademoiselle|Docteur|Professeur|Se\u00f1or(?:a|ita)?|Sr|Sra|Srta|Dra|Don|(?:Dipl\.?-?)?Ing|Do\u00f1a|Sig|Dott)\.?[ ]{{1,2}}
    (?:(?:Dr|Prof|PD|med|dent|rer|nat|phil|habil)\.?[ ]{{1,2}}){{0,3}}{_PARTICLE}(?:[A-Z]\.[ ]?)*{_WORD}(?:[ ]{_WORD})?
  | (?<![\w.])M\.[ ]{_PARTICLE}{_WORD}
  | (?<!\w)(?:DR|MR|MRS|MS|PROF|HERR|FRAU|MME|SR|SRA)\.?[ ][A-Z\u00c0-\u00de][A-Z\u00c0-\u00de'-]{{3,}}(?!\w)
  | (?<!\w)(?:[Rr]eported|[Dd]ictated|[Ss]igned|[Vv]erified|[Aa]pproved|[Rr]eferred|[Rr]eviewed|[Tt]ranscribed|[Ss]een|[Ee]xamined
       |[Aa]uthori[sz]ed)
    [ ]by:?[ ]{_PERSON}
  | (?<!\w)(?:[Bb]efundet[ ]von|[Gg]ezeichnet(?:[ ]von)?|[Gg]ez\.|[Vv]idiert[ ]von|[\u00dc\u00fc]berwiesen[ ]von
       |[Ss]ign\u00e9[ ]par|[Vv]alid\u00e9[ ]par
       |[Rr]\u00e9dig\u00e9[ ]par|[Ff]irmado[ ]por|[Ii]nformado[ ]por|[Dd]ictado[ ]por):?[ ]{_PERSON}
  | (?<!\w)(?:[Pp]atient(?:'s)?[ ][Nn]ame|[Nn]ame[ ]of[ ]patient|[Ss]urname|[Ff]irst[ ]name|[Ll]ast[ ]name|Nachname|Vorname|Familienname
       |Nom(?:[ ]du[ ]patient)?|Pr\u00e9nom|Nombre|Apellidos?)[ ]?\W{{1,3}}{_WORD}
  | (?:^|[\n;|])[ ]*Name:[ ]*{_WORD}
  | (?<!\w)[Pp]atient(?:in)?[ ](?:is[ ])?(?:named|called|namens)[ ]{_WORD}
  | (?<!\w){_WORD}(?:[ ][A-Z]\.)?[ ]{_WORD},?[ ](?:M\.?D\.?|FRCR|FRANZCR|FRCPC?|MBBS|MBChB|Ph\.?D\.?)(?!\w)
  | (?<![\w^])[A-Za-z][A-Za-z'-]+\^[A-Za-z][A-Za-z'-]*
"""
_ADDRESSES = r"""
    (?<![\w.,-])\d{1,5}[A-Za-z]?[ ](?:[A-Z][\w'\u2019-]+[ ]){1,3}
    (?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Boulevard|Blvd|Crescent|Drive|Terrace|Highway|Court|Square|Grove|Gardens|Parkway)(?!\w)
  | (?<!\w)[A-ZÄÖÜ][a-zäöüß-]+(?:straße|strasse|str\.|gasse|allee|platz|weg|ring|damm|ufer)[ ]?\d{1,4}[ ]?[a-z]?(?!\w)
  | (?<!\w)[A-ZÄÖÜ][a-zäöüß]+(?:er[ ]|-)(?:[A-ZÄÖÜ][a-zäöüß]+-)?
    (?:Straße|Strasse|Str\.|Allee|Platz|Weg|Ring|Damm|Gasse)[ ]\d{1,4}[ ]?[a-z]?(?!\w)
  | (?<!\w)(?:[Rr]ue|[Cc]alle|[Vv]ia)[ ](?:de[ ](?:la[ ])?)?[A-Z]\w+,?[ ]\d{1,4}(?!\w)
  | (?<![\w.,-])\d{1,4}(?:[ ]?(?:bis|ter))?,?[ ](?:rue|avenue|av\.|boulevard|bd|place|all[ée]e|chemin|impasse|quai|cours)[ ]
    (?:de[ ]|du[ ]|des[ ]|la[ ]|le[ ]|les[ ]|[dl]['\u2019]){0,3}[A-ZÀ-Þ]\w+
  | (?<!\w)(?:C/|C\.|Calle|Avenida|Avda\.?|Plaza|Paseo|Camino|Carretera|V[ií]al?|Callej[oó]n|Ca[ñn]ada|Rambla|Pasadizo|Pasaje|Ronda|Glorieta
       |Traves[ií]a|Cuesta|Urbanizaci[oó]n)[ ]?(?:de[ ](?:la[ ]|los[ ]|las[ ]|el[ ])?|del[ ])?
    [A-ZÀ-Þ]\w+(?:[ ](?:de[ ]|la[ ]|del[ ])?[A-ZÀ-Þ]\w+){0,3},?[ ](?:n[.º°]*[ ]?)?\d{1,4}(?!\w)
  | (?<!\w)(?:rue|boulevard|impasse)[ ](?:de[ ]|du[ ]|des[ ]|la[ ]|le[ ]|les[ ]|[dl]['\u2019]){0,3}[A-ZÀ-Þ]\w+
  | (?<![\w.,-])\d{1,5}[ ](?:[A-Z][\w'\u2019-]+[ ]){1,3}(?:Apt|Suite|Unit|Flat)\.?[ ]\d+
  | (?<!\w)(?:Flat|Apartment|Apt\.?|Suite|Studio)[ ]\d{1,4}[A-Za-z]?,?[ \n](?=[A-Z])
  | (?<!\w)P\.?[ ]?O\.?[ ]Box[ ]\d+
  | (?<!\w)Postfach[ ]\d+
  | (?<!\w)[A-PR-UWYZ][A-HK-Y]?\d[\dA-Z]?[ ]\d[ABD-HJLNP-UW-Z]{2}(?!\w)
  | (?<![\w.,/+-])(?:[DF]-)?\d{5}[ ][A-ZÀ-Þ][a-zà-ÿ]{2,}
  | (?<=,[ ])(?:A[AEKLPRZ]|C[AO]|D[CE]|FL|G[AU]|HI|I[ADLN]|K[SY]|LA|M[ADEINOPST]|N[CDEHJMVY]|O[HKR]|P[ARW]|RI|S[CD]|T[NX]|UT|V[AIT]|W[AIVY])
    [ ]\d{5}(?:-\d{4})?(?!\w)
"""
_OLD = r"(?:9\d|1[01]\d)"
_AGES = rf"""
    (?<![\w.,/-]){_OLD}[ -]?(?:years?|yrs?|year|y/?o|y\.o\.|Jahren?|j[äa]e?hrige?[rnms]?|ans|a[ñn]os)(?!\w)
  | (?<![\w.,/-]){_OLD}[MF](?=[ ,]+(?:with|who|presenting|presents|c/o|s/p|h/o|mit|avec|con)\b)
  | (?<!\w)(?:[Aa]ged?|[Aa]lter|[ÂâAa]ge|[Ee]dad)[ ]?[:=]?[ ]{_OLD}(?![\w.,/-]\d|\d|[ ]?(?:mm|cm|%|kg))
"""
_WEB = r"""
    (?:https?|ftp)://[^\s<>"']{3,200}
  | (?<![\w@.-])www\.[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}
  | (?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]?\d)
  | (?<![\w:])(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}(?![\w:])
"""
PATTERNS: tuple[tuple[PhiKind, re.Pattern[str]], ...] = (
    (PhiKind.EMAIL, re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")),
    (PhiKind.DATE, re.compile(_DATES, re.VERBOSE)),
    (PhiKind.PHONE, re.compile(_PHONES, re.VERBOSE)),
    (PhiKind.RECORD, re.compile(_RECORDS, re.VERBOSE)),
    (PhiKind.NAME, re.compile(_NAMES, re.VERBOSE)),
    (PhiKind.ADDRESS, re.compile(_ADDRESSES, re.VERBOSE)),
    (PhiKind.AGE, re.compile(_AGES, re.VERBOSE)),
    (PhiKind.WEB, re.compile(_WEB, re.VERBOSE)),
)
