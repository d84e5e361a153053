"""Our own ChatGLM2 / ChatGLM3 code: configuration, model and tokenizer on today's transformers.

Importing this package is light; its modules `configuration`, `modeling` and `tokenization` import
transformers. `layout` holds what can be told from `config.json` alone. Read next: `layout`.
"""
