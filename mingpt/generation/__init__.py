"""What a model says next, token by token: samples with seeds, beam search, a cache of keys."""
