"""What ``import butwait`` gives: the recipe's own parts as functions, for programs and notebooks.

Every function writes a recipe, or a stage of one, and runs what ``butwait run`` runs; there is no
second way to do anything. ``butwait/__init__.py`` lists the names.
"""
