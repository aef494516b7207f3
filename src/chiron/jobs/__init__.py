"""Jobs: units of work sent through one client, in a run directory, with progress, resume and stop."""
