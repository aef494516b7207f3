"""Model families: what training and generation need to know of an architecture; one file per family."""
