"""The provider ``local``: InternVL and Qwen-VL checkpoints that run in this process."""
