"""The provider ``local``: InternVL, Qwen2-VL and Qwen2.5-VL checkpoints that run in this process."""
