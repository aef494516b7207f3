"""What people look at: the report of a run, one HTML file that needs nothing else."""
