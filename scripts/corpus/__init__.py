"""Text of our own making: the grammars behind `data/fault_triples` and `data/tiny-glm`.

`words` holds morphemes, `faults` the fault-triple task, `tasks` and `documents` what the embedded
checkpoint is pretrained on. All randomness comes from the `random.Random` that a caller passes in.
"""
