"""Continue prompts token by token: samples with seeds, beam search, a cache of keys and values."""
