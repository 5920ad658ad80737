"""Does a semantic stage repeat its training data?"""
