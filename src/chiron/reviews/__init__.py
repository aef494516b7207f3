"""Reviews of reasoning paths by people: the store in a run directory, what reviewers decided, and how well they agree."""
