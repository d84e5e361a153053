"""Packs: several trials train on one frozen base, in one process, with one forward pass for all.

A `Pack` holds the base and slots; each slot holds one trial's weights and optimizer. The rows of
all slots are laid end to end in one line of tokens, without padding, which the frozen linears see
as one matrix. What a trial learns does not depend on who shares its pack. Nothing here knows Ray or
DeepSpeed. Read next: `pack`, then `slot`, `line`, `attention`, `linear`, `copies`; `trial` and
`runner` run it.
"""
