"""Who makes a stream: CLAP, semantic encoder and codec, their quantizers, fingerprints, and what belongs together."""
