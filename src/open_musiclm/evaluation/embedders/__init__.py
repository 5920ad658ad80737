"""Networks that hear clips: windows in, embeddings or class probabilities out, kept on disk."""
