"""From text to training shards: questions, voices, augmentation, features and codes."""
