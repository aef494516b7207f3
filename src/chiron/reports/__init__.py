"""Reports for people: a run's report is one self-contained HTML file."""
