"""Data: shards, samples, transforms, the mixture stream, folders and raw data sets."""
