"""Export formats for other trainers; one file per format."""
