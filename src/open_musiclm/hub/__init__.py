"""What is published and loaded: model cards, loader files, uploads, the model in the box."""
