"""Jobs: units of work through one client, in a run directory, with progress, resume and stop."""
