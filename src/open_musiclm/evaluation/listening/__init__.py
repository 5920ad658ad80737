"""The listening test: a page of blinded pairs, and what its results say."""
