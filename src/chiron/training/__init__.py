"""Training: the curriculum's rows become tokens and tiles, are packed without leaks, and one LoRA goes through all stages."""
