"""Convert InternVL checkpoints between the authors' layout and transformers'."""
