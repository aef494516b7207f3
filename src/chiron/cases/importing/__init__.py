"""Bringing cases in: from JSONL, tables, DICOM studies, NIfTI volumes and datasets on disk to one folder in the tidy format."""
