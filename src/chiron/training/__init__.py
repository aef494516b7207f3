"""Curriculum training: encode rows as tokens and tiles, pack them without leaks, and train one LoRA adapter through all stages."""
