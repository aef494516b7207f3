"""Taking the answer out of a model's reply: never at random, never the first of several; what cannot be read is unparsed, and wrong."""
