"""The part of the report about stages of reinforcement learning."""
