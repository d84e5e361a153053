"""Our own ChatGLM-6B code: configuration, positions and mask, model, tokenizer.

Importing this package is light; all its modules but `layout` import torch. Read next: `layout`.
"""
