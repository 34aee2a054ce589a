"""GRPO and GRPO-Direct, on TRL's trainer (``docs/grpo.md``, ``docs/grpo_direct.md``)."""
