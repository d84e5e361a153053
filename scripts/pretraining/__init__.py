"""How `data/tiny-glm` is made: its tokenizer, its first weights, its rows and its training."""
