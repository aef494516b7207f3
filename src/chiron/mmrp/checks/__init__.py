"""What is looked for before a dataset leaves the house; a file a check."""
