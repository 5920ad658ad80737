"""What is measured, and the audio that it makes."""
