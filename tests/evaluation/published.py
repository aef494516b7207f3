"""Made-up records of the exact schemas in which benchmarks are published, written as their files are."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image


def png(shade: int = 0, size: tuple[int, int] = (24, 16)) -> bytes:
    out = io.BytesIO()
    Image.new("L", size, shade % 256).save(out, "PNG")
    return out.getvalue()


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    from pyarrow import parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def zipped(path: Path, *names: str, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(name, png(shade + number))
    return path


def image(shade: int = 0) -> dict[str, Any]:
    """As ``datasets`` writes an image into Parquet."""
    return {"bytes": png(shade), "path": f"{shade}.png"}


def vqa_rad(folder: Path, count: int = 8) -> Path:
    """Odd ones are yes/no."""
    rows = [
        {
            "image": image(n // 2),
            "question": f"is there a mass in number {n}?" if n % 2 else f"what is number {n}?",
            "answer": ("Yes" if n % 4 == 1 else "no") if n % 2 else "left lung",
        }
        for n in range(count)
    ]
    parquet(folder / "data" / "test-00000-of-00001-e5bc3d208bb4deeb.parquet", rows)
    return folder


SLAKE: dict[str, Any] = {
    "img_id": 102,
    "img_name": "xmlab102/source.jpg",
    "question": "What modality is used to take this image?",
    "answer": "CT",
    "q_lang": "en",
    "location": "Lung",
    "modality": "CT",
    "answer_type": "OPEN",
    "base_type": "vqa",
    "content_type": "Modality",
    "triple": ["vhead", "_", "_"],
    "qid": 11934,
}


def slake(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        SLAKE,
        {**SLAKE, "qid": 11935, "question": "Is this a CT?", "answer": "Yes", "answer_type": "CLOSED"},
        {**SLAKE, "qid": 11936, "question": "Which side?", "answer": "Left", "answer_type": "CLOSED"},
        {**SLAKE, "qid": 11937, "question": "\u8fd9\u662f\u4ec0\u4e48?", "q_lang": "zh"},
    ]
    (folder / "test.json").write_text(json.dumps(rows))
    zipped(folder / "imgs.zip", "imgs/xmlab102/source.jpg", "imgs/xmlab102/mask.png")
    return folder


def pmc_vqa(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    head = "index,Figure_path,Caption,Question,Choice A,Choice B,Choice C,Choice D,Answer,Answer_label,split"
    lines = [
        (
            '0,PMC1064097_F1.jpg,"A, caption",What is the uptake pattern in the breast?, A:Diffuse uptake pattern ,'
            " B:Focal uptake pattern ,"
            " C:No uptake pattern , D:Cannot determine ,Focal uptake pattern,B,test"
        ),
        "1,PMC1064097_F1.jpg,x,What is D?, A:one , B:two , C:three , D:four ,five,E,test",
    ]
    (folder / "test_clean.csv").write_text("\n".join([head, *lines]) + "\n")
    zipped(folder / "images.zip", "images/PMC1064097_F1.jpg")
    return folder


def mmmu_row(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "question": "Which of these follows <image 1>?",
        "options": "['<image 2>', 'b, c', \"it's d\"]",
        "explanation": "",
        "image_1": image(1),
        "image_2": image(2),
        **{f"image_{n}": None for n in range(3, 8)},
        "img_type": "['Plots and Charts']",
        "answer": "B",
        "topic_difficulty": "Hard",
        "question_type": "multiple-choice",
        "subfield": "Pharmacology",
        **changes,
    }


HUATUO: dict[str, Any] = {
    "image": ["images/brain002206.png"],
    "question": "What is apparent in this image?",
    "options": ["Hemorrhage", "Acute infarct", "Abscess formation", "Chronic infarct"],
    "answer": "Chronic infarct",
    "dataset": "OmniMedVQA",
    "subset": "MR (Mag-netic Resonance Imaging)",
}


def huatuo(folder: Path, *rows: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "medical_multimodel_evaluation_data.json").write_text(json.dumps([HUATUO, *({**HUATUO, **row} for row in rows)]))
    zipped(folder / "images.zip", "images/brain002206.png")
    return folder


MEDXPERT: dict[str, Any] = {
    "id": "MM-0",
    "question": "What is next?\nAnswer Choices: (A) one (B) two (C) three (D) four (E) five",
    "options": {"A": "one", "B": "two", "C": "three", "D": "four", "E": "five"},
    "label": "E",
    "images": ["MM-0-a.jpeg", "MM-0-b.jpeg"],
    "medical_task": "Treatment",
    "body_system": "Skeletal",
    "question_type": "Reasoning",
}
MEDXPERT_GITHUB: dict[str, Any] = {
    **MEDXPERT,
    "options": [{"letter": letter, "content": text} for letter, text in MEDXPERT["options"].items()],
    "label": ["E"],
    "images": [{"image_path": "MM-0-a.jpeg"}, {"image_path": "MM-0-b.jpeg"}],
}


def table1(folder: Path, count: int = 4, *, without: tuple[str, ...] = ()) -> Path:
    """The data of the suite ``table1``: ``count`` questions a column, each with its own image; the right option is the first."""
    sets = ("VQA-RAD_test", "SLAKE_test", "PathVQA_test", "PMC-VQA_test")
    rows = [
        {
            **HUATUO,
            "dataset": name,
            "question": f"What is in image {n} of {name}?",
            "image": [f"images/{name}-{n}.png"],
            "options": ["mass", "cyst", "air"],
            "answer": "mass",
        }
        for name in sets
        if name not in without
        for n in range(count)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "medical_multimodel_evaluation_data.json").write_text(json.dumps(rows))
    zipped(folder / "images.zip", *(row["image"][0] for row in rows))
    if "MMMU" not in without:
        mmmu = [mmmu_row(f"test_Pharmacy_{n}", answer="A", image_1=image(n), image_2=image(n + 100)) for n in range(count)]
        parquet(folder / "mmmu_health_test" / "test-0.parquet", mmmu)
        (folder / "mmmu_health_test" / "answer_dict_test.json").write_text(json.dumps({row["id"]: {"ground_truth": "A"} for row in mmmu}))
    return folder


MEDXPERT_TEXT: dict[str, Any] = {
    "id": "Text-0",
    "question": "What is next?\nAnswer Choices: (A) a (B) b (C) c (D) d (E) e (F) f (G) g (H) h (I) i (J) j",
    "options": {letter: letter.lower() for letter in "ABCDEFGHIJ"},
    "label": "J",
    "medical_task": "Diagnosis",
    "body_system": "Nervous",
    "question_type": "Understanding",
}
OMNIMED: dict[str, Any] = {
    "dataset": "ACRIMA",
    "question_id": "ACRIMA_0000",
    "question_type": "Modality Recognition",
    "question": "What imaging technique was used?",
    "gt_answer": "Fundus imaging",
    "image_path": "Images/ACRIMA/Im553_g_ACRIMA.png",
    "option_A": "PET scan",
    "option_B": "CT scan",
    "option_C": "Blood test",
    "option_D": "Fundus imaging",
    "modality_type": "Fundus Photography",
}
MEDFRAMEQA: dict[str, Any] = {
    "question_id": "liver_cyst_CT_abc_1",
    "system": "digestive system",
    "organ": "liver",
    "keyword": "cyst",
    "modality": "CT",
    "video_id": "abc",
    "question": "What do these frames show?",
    "options": ["a cyst", "a stone", "a tumor"],
    "image_url": ["https://example.org/1.jpg"],
    "correct_answer": "B",
    "reasoning_chain": "",
    "image_1": image(1),
    "image_2": image(2),
    "image_3": image(3),
    "image_4": None,
    "image_5": None,
}
PATHMMU: dict[str, Any] = {
    "No": 1,
    "img": "9e48.jpg",
    "question": "What can be observed?",
    "options": ["A) Bi-lobed nuclei (eosinophils) in a row", "B) Macronucleoli", "C) Vacuoles", "D) Multi-lobed nuclei"],
    "answer": "A) Bi-lobed nuclei (eosinophils) in a row",
    "explanation": "x",
}
MEDQA: dict[str, Any] = {
    "question": "A resident makes a mistake. What is next?",
    "answer": "Tell the attending",
    "options": {"A": "Disclose it", "B": "Tell the attending", "C": "Report it", "D": "Refuse"},
    "meta_info": "step1",
    "answer_idx": "B",
    "metamap_phrases": ["resident"],
}
MEDMCQA: dict[str, Any] = {
    "id": "45258d3d-b974-44dd-a161-c3fccbdadd88",
    "question": "Which nerve?",
    "opa": "first",
    "opb": "second",
    "opc": "third",
    "opd": "All of the above",
    "cop": 3,
    "choice_type": "multi",
    "exp": None,
    "subject_name": "Anatomy",
    "topic_name": None,
}
PUBMEDQA: dict[str, Any] = {
    "id": "a9f0",
    "data": {
        "Context": ["Statins are common.", "We asked 100 people."],
        "Correct Answer": "maybe",
        "Correct Option": "C",
        "Long Answer": "It may.",
        "Options": {"A": "yes", "B": "no", "C": "maybe"},
        "Question": "Do statins help?",
    },
    "subject_name": None,
}
MMLU: dict[str, Any] = {"question": " Which bone?", "subject": "anatomy", "choices": ["femur", "tibia", "ulna", "radius"], "answer": 2}
VQA_MED = """synpic1|modality|what modality is shown?|cta - ct angiography
synpic2|modality|was the mri taken with contrast?|no
synpic3|abnormality|what is abnormal?|(angioinvasive aspergillosis with) septic cerebral emboli
synpic4|organ|what organ system is imaged?|gastrointestinal#genitourinary
synpic5|organ|what is it?
"""
