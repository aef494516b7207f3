"""Parse the text of model replies: thinking, channels, boxes, answer tags, reasoning steps, verdicts. Shared by all parts of Chiron."""
