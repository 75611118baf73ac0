"""Erasing: take away what a model looks at, to train on it or to see what it looks at next."""
