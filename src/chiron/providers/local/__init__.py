"""The provider ``local``: checkpoints of InternVL, Qwen2-VL and Qwen2.5-VL in this process."""
