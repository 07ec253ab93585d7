"""The trainer: SFT, alignment and RLVR of vision-language models; reads one StageConfig."""
