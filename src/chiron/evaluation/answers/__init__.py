"""Extract answers from model replies: never at random, never the first of several. An unreadable reply is unparsed and counts as wrong."""
