"""Read what models write: thinking, channels, boxes, answer tags, reasoning steps, verdicts. Every part of Chiron reads replies with it."""
