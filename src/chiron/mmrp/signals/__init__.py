"""Training signals from the whole search tree: preference pairs, step rewards, prompts for reinforcement learning, reflections."""
