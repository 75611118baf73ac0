"""Maps made of attention, one file a method; each registers itself under `METHODS`."""
