"""The twenty body systems under which radiology files its cases: names, synonyms and DICOM body parts, and which of them is a case's.

Organ systems are told by words of anatomy. Systems that cut across the organs (trauma, oncology, paediatrics and the like) are told by
metadata alone: a fractured rib of a child is all of them. Where words point to two systems, or to none, a case is placed nowhere.
"""

import re
from dataclasses import dataclass

from chiron.cases.case import Case


@dataclass(frozen=True, slots=True)
class BodySystem:
    """A body system."""

    name: str
    short: str
    """Four letters at most, for the head of a column."""
    names: tuple[str, ...]
    """Other names and DICOM body parts (PS3.16, annex L) that stand for it as a whole text."""
    words: tuple[str, ...] = ()
    """Regular expressions that point to it within a text, in any case."""


BODY_SYSTEMS: tuple[BodySystem, ...] = (
    BodySystem("Breast", "brst", ("breasts", "breast imaging", "mammary"), (r"breasts?", r"mammary", r"fibroadenomas?", r"axillary tail")),
    BodySystem(
        "Cardiac",
        "card",
        ("heart", "cardiology", "cardiovascular", "coronary", "cardiac imaging", "coronaryartery", "hheart", "pericardium"),
        (r"cardiac", r"myocardi\w+", r"pericardi\w+", r"coronary", r"(?:left|right) (?:ventricular|atrial|atrium)", r"(?:mitral|tricuspid) valve", r"pacemaker"),
    ),
    BodySystem(
        "Central nervous system",
        "cns",
        ("cns", "brain", "neuro", "neuroradiology", "neurological", "nervous system", "nervous", "cerebral", "cranial"),
        (
            r"brain", r"cerebr(?:al|um|i)", r"cerebell(?:ar|um)", r"intracranial", r"hippocamp\w+", r"gliomas?", r"glioblastomas?", r"mening\w+",
            r"subarachnoid", r"subdural", r"white matter", r"corpus callosum", r"basal ganglia", r"pituitary", r"hydrocephalus", r"thalam(?:us|ic)",
            r"(?:frontal|temporal|parietal|occipital) lobe",
        ),
    ),
    BodySystem(
        "Chest",
        "chst",
        ("thorax", "thoracic", "lung", "lungs", "pulmonary", "respiratory", "respiratory system", "chest imaging", "mediastinum", "bronchus", "pleura"),
        (
            r"lungs?", r"pulmonary", r"pneumothora\w+", r"pneumoni\w+", r"pleura\w*", r"bronch(?!oscop)\w+", r"mediastin\w+", r"tracheal?",
            r"(?:upper|middle|lower) lobe", r"thymomas?", r"thymus", r"emphysema(?:tous)?",
        ),
    ),
    BodySystem("Forensic", "fore", ("forensics", "forensic imaging", "post mortem", "postmortem")),
    BodySystem(
        "Gastrointestinal",
        "gi",
        ("gi", "git", "gastrointestinal tract", "digestive", "digestive system", "bowel", "colon", "stomach", "esophagus", "oesophagus", "rectum",
         "smallintestine", "small bowel", "duodenum", "appendix"),
        (
            r"bowel", r"colon(?:ic)?", r"sigmoid", r"append(?:ix|icitis)", r"gastric", r"stomach", r"duoden(?:um|al)", r"jejun(?:um|al)", r"ile(?:um|al)",
            r"o?esophag(?:us|eal)", r"rect(?:um|al)", r"caec(?:um|al)", r"cec(?:um|al)", r"divertic\w+itis", r"intussusception", r"volvulus",
            r"crohn'?s?",
        ),
    ),
    BodySystem(
        "Gynaecology",
        "gyn",
        ("gynecology", "gynaecological", "gynecological", "female reproductive", "uterus", "ovary", "cervix", "vagina", "female pelvis"),
        (r"uter(?:us|ine)", r"ovar(?:y|ies|ian)", r"endometri\w+", r"fallopian", r"adenomyosis", r"cervical (?:cancer|carcinoma)", r"vagin\w+", r"adnexal?"),
    ),
    BodySystem("Haematology", "haem", ("hematology", "haematological", "hematological", "blood", "lymphatic", "bone marrow"), ()),
    BodySystem(
        "Head & neck",
        "h&n",
        ("head and neck", "head neck", "headneck", "neck", "ent", "ear nose throat", "face", "orbit", "sinus", "paranasal sinuses", "thyroid", "larynx",
         "pharynx", "jaw", "mandible", "maxilla", "dental", "eye", "ear", "parotid", "parotidgland", "nasopharynx", "temporomandibular joint", "tmj"),
        (
            r"thyroid", r"parotid", r"orbit(?:s|al)?", r"larynx", r"laryngeal", r"(?:naso|oro)?pharyn(?:x|geal)", r"mandib(?:le|ular)", r"maxill(?:a|ary)",
            r"(?:sphenoid|ethmoid|paranasal|frontal) sinus(?:es)?", r"salivary", r"cochlea\w*", r"tonsil\w*", r"mastoid\w*", r"retina\w*",
        ),
    ),
    BodySystem(
        "Hepatobiliary",
        "hepb",
        ("hepatobiliary system", "liver", "hepatic", "biliary", "gallbladder", "pancreas", "bile duct", "biliarytract", "spleen and liver"),
        (
            r"liver", r"hepat(?:ic|ocellular|itis|omegaly)", r"biliary", r"bile ducts?", r"gallbladder", r"gallstones?", r"chole(?:cyst|doch|lith)\w+",
            r"pancrea(?:s|tic|titis)", r"cirrho(?:sis|tic)",
        ),
    ),
    BodySystem("Interventional", "intv", ("interventional radiology", "ir", "intervention")),
    BodySystem(
        "Musculoskeletal",
        "msk",
        ("msk", "bone", "bones", "skeletal", "skeletal system", "muscular", "joint", "joints", "extremity", "orthopaedics", "orthopedics", "shoulder",
         "elbow", "wrist", "hand", "finger", "hip", "knee", "ankle", "foot", "leg", "arm", "femur", "tibia", "humerus", "clavicle", "scapula", "toe",
         "forearm", "thigh", "calf", "calcaneus", "patella", "upperlimb", "lowerlimb", "rib", "sternum", "upper limb", "lower limb"),
        (
            r"femur", r"femoral (?:head|neck|condyle|shaft)", r"tibia[l]?", r"fibular?", r"humer(?:us|al)", r"radius", r"ulnar?", r"scaphoid", r"metatars\w+",
            r"metacarp\w+", r"menisc(?:us|al|i)", r"cruciate", r"rotator cuff", r"knees?", r"shoulders?", r"ankles?", r"wrists?", r"elbows?", r"patellar?",
            r"calcane(?:us|al)", r"clavic(?:le|ular)", r"osteosarcoma", r"osteochondroma", r"achilles", r"talus", r"acetabul\w+", r"supraspinatus",
        ),
    ),
    BodySystem(
        "Obstetrics",
        "obst",
        ("obstetric", "obstetrical", "pregnancy", "fetal", "foetal", "fetus"),
        (r"f(?:o)?et(?:us|al)", r"gestational", r"placenta\w*", r"pregnan(?:t|cy)", r"ectopic pregnancy"),
    ),
    BodySystem("Oncology", "onco", ("oncological", "cancer", "tumour", "tumor")),
    BodySystem("Paediatrics", "paed", ("pediatrics", "paediatric", "pediatric", "paeds", "peds")),
    BodySystem(
        "Spine",
        "spin",
        ("spinal", "vertebral", "vertebral column", "cspine", "tspine", "lspine", "sspine", "lsspine", "c spine", "t spine", "l spine", "cervical spine",
         "thoracic spine", "lumbar spine", "sacrum", "coccyx", "spinal cord"),
        (
            r"spin(?:e|al)(?: cord| canal)?", r"vertebra\w*", r"interverteb\w+", r"spondyl\w+", r"(?:lumbar|cervical|thoracic) (?:spine|disc|vertebra\w*)",
            r"cauda equina", r"sacr(?:um|al)", r"odontoid", r"disc (?:herniation|protrusion|extrusion)",
        ),
    ),
    BodySystem("Trauma", "trau", ("traumatology", "injury", "injuries", "emergency")),
    BodySystem(
        "Urogenital",
        "urog",
        ("urology", "genitourinary", "gu", "urinary", "urinary system", "renal", "kidney", "kidneys", "bladder", "prostate", "ureter", "testis", "scrotum",
         "penis", "urogenital system", "adrenal", "testes"),
        (
            r"kidneys?", r"renal", r"ureter(?:s|ic|al)?", r"(?:urinary )?bladder", r"prostat(?:e|ic)", r"test(?:is|es|icular)", r"scrot(?:um|al)",
            r"nephro\w+", r"hydronephrosis", r"pyelonephritis", r"adrenal", r"urethra\w*", r"epididym\w+",
        ),
    ),
    BodySystem(
        "Vascular",
        "vasc",
        ("vessel", "vessels", "vascular system", "aorta", "artery", "arteries", "vein", "veins", "carotid", "peripheral vascular", "iliacartery",
         "abdominal aorta", "thoracic aorta"),
        (
            r"aortic (?:dissection|aneurysm)s?", r"(?:aneurysm|dissection)s? of the (?:abdominal |thoracic )?aorta", r"vena cava", r"deep vein thrombosis",
            r"carotid (?:artery )?(?:stenosis|dissection|occlusion)", r"varicose", r"claudication",
        ),
    ),
    BodySystem("Other", "othr", ("not applicable", "n/a", "na", "none", "other", "miscellaneous", "whole body", "wholebody")),
)
"""In the order of the map's columns."""

_PLAIN = re.compile(r"[^\w&]+|_")
_BY_NAME = {_PLAIN.sub(" ", name.casefold()).strip(): s for s in BODY_SYSTEMS for name in (s.name, s.short, *s.names)}
# Words that are part of another system's name in a longer phrase, taken out before looking.
_NOT_THAT = re.compile(
    r"\b(?:pulmonary (?:arter(?:y|ies)|trunk|veins?|valve)|renal (?:arter(?:y|ies)|veins?|function|failure)|hepatic (?:arter(?:y|ies)|veins?)"
    r"|(?:carotid|mesenteric|cerebral|vertebral|coronary) arter(?:y|ies)(?= bypass)|gallbladder fossa|femoral (?:arter(?:y|ies)|veins?)|knee pain"
    r"|bowel habits?|liver function|thyroid function|bowel sounds|white matter of the spinal cord|vertebral arter(?:y|ies)|radius of)\b",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"\b(?:no|without|denies|denied|not)\b[^.;,]{0,60}", re.IGNORECASE)
_WORDS = tuple((s, re.compile(rf"\b(?:{'|'.join(s.words)})\b", re.IGNORECASE)) for s in BODY_SYSTEMS if s.words)


def body_system_of(text: str) -> BodySystem | None:
    """The one body system that a text names or points to; None if it is none, or several."""
    whole = _BY_NAME.get(_PLAIN.sub(" ", text.casefold()).strip())
    if whole is not None:
        return whole
    bare = _NEGATED.sub(" ", _NOT_THAT.sub(" ", text))
    found = [system for system, words in _WORDS if words.search(bare)]
    return found[0] if len(found) == 1 else None


def body_system_of_case(case: Case) -> BodySystem | None:
    """A case's body system: by its metadata, else by the words of its question, history and title together; None when unsure.

    Its findings are not asked: they speak of what is normal too.
    """
    for named in (case.body_system, case.meta.get("body_part")):
        if isinstance(named, str) and (system := body_system_of(named)) is not None:
            return system
    return body_system_of("\n".join((case.title or "", case.question, case.history)))
