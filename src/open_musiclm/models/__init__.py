"""What a stage is: token streams, configurations, the transformer, the stages and how they are asked for tokens."""
