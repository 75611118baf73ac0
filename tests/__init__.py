"""Tests of attnviz."""
