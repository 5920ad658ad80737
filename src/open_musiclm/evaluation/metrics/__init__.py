"""Arrays in, numbers out: each metric to its last constant."""
