"""The engine: one optimizer step of one model, over all workers. DeepSpeed is its strategy.

`schedule` has the learning rate, `distributed` what ranks say to each other, `deepspeed` the
engine.
"""
