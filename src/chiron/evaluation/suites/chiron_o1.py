"""The two tables of Chiron-o1 (arXiv 2506.16962)."""

from chiron.evaluation.suites.suite import Column, Suite

_CLOSED, _JUDGED = "huatuo_closed", "chiron_judge"

SUITES = (
    Suite(
        name="table1",
        title="Chiron-o1, table 1 (arXiv 2506.16962): medical VQA",
        columns=(
            Column("VQA-RAD", "huatuo_vqa_rad", _CLOSED, "test, 251 closed questions of HuatuoGPT-Vision's bundle"),
            Column("SLAKE", "huatuo_slake", _CLOSED, "test, 416 closed questions of HuatuoGPT-Vision's bundle"),
            Column("PathVQA", "huatuo_path_vqa", _CLOSED, "test, 3,362 closed questions of HuatuoGPT-Vision's bundle"),
            Column("PMC-VQA", "huatuo_pmc_vqa", _CLOSED, "test, 2,000 questions of HuatuoGPT-Vision's bundle"),
            Column("MMMU (H&M)", "mmmu_health_test", _CLOSED, "test, the 1,712 choices of Health & Medicine"),
        ),
    ),
    Suite(
        name="table2",
        title="Chiron-o1, table 2 (arXiv 2506.16962): reasoning",
        columns=(
            Column("MMRP pure text ACC", "mmrp_text", _CLOSED, "test", averaged=False),
            Column("MedXpertQA-MM Reasoning ACC", "medxpertqa_reasoning", _CLOSED, "test, 1,446 choices of five", averaged=False),
            Column("MedXpertQA-MM Understanding ACC", "medxpertqa_understanding", _CLOSED, "test, 554 choices of five", averaged=False),
            Column("MMRP reasoning ACC", "mmrp_reasoning", _JUDGED, "test", averaged=False),
            Column("MMRP reasoning BERTScore", "mmrp_reasoning", _JUDGED, "test", score="bertscore_f1", averaged=False),
            Column("MMRP reasoning MICS-Score", "mmrp_reasoning", _JUDGED, "test", score="mics_score_whole", averaged=False),
        ),
        notes=(
            "BERTScore: F of the final answer, not rescaled, so chance of roberta-large is 83.",
            "MICS-Score: as the paper's Eq. 4, interns see every step of the reasoning (mics_score_whole).",
        ),
    ),
)
