"""From stages to pieces of music: windows, the text-to-music pipeline, streaming, best of N."""
