"""Import cases from JSONL, tables, DICOM studies, NIfTI volumes and datasets on disk."""
