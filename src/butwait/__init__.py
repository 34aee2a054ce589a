"""Teach a small language model to reason from its own search.

``butwait.pipeline.run`` is the main path; ``docs/`` explains each part. Importing a part imports
only what it needs, so this file imports nothing.
"""
