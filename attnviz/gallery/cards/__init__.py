"""The cards, one file a mechanism (or a few that share an example)."""
