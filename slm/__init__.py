"""Learn how a language model works by training one that writes stories on your own laptop."""
