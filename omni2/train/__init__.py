"""Training: codec, feature shards, language model.  Needs the `train` extra."""
