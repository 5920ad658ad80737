"""The metrics over systems, clips and prompts, each figure with its record."""
